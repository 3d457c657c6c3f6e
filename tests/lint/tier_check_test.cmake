# cmake -DSOURCE_DIR=... -DBINARY_DIR=... -P tier_check_test.cmake
# The configure step must refuse a Torch-free target that links torch in any way, and name it.
function(configure case out_result out_text)
  set(build ${BINARY_DIR}/tier_check/${case})
  file(REMOVE_RECURSE ${build})
  execute_process(
    COMMAND ${CMAKE_COMMAND} -S ${SOURCE_DIR}/tests/lint/tier_check -B ${build} -G Ninja -DCASE=${case}
      -DDIFFMOE_CMAKE_DIR=${SOURCE_DIR}/deploy/cmake -DCMAKE_CXX_COMPILER_WORKS=ON
    RESULT_VARIABLE result OUTPUT_VARIABLE text ERROR_VARIABLE text)
  set(${out_result} ${result} PARENT_SCOPE)
  set(${out_text} "${text}" PARENT_SCOPE)
endfunction()

configure(clean result text)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "a clean project was refused:\n${text}")
endif()
foreach(case direct through_a_torch_library privately_below through_an_undeclared_library by_file by_flag)
  configure(${case} result text)
  if(result EQUAL 0)
    message(FATAL_ERROR "case ${case}: torch in the Torch-free tier was accepted")
  endif()
  string(REGEX REPLACE "[ \n]+" " " line "${text}")
  if(NOT line MATCHES "(coordinator|base|storage) belongs to the Torch-free tier but links [^ ]*(torch|c10)")
    message(FATAL_ERROR "case ${case}: refused with another message:\n${text}")
  endif()
  message(STATUS "case ${case}: refused")
endforeach()
