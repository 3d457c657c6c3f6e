# Writes OUT, a source with the contents of FILES (names below FOLDER) as constants.
set(source "#include \"server/http/console_pages.h\"\n\nnamespace diffmoe::server {\nnamespace {\n\n")
set(rows "")
set(number 0)
foreach(name IN LISTS FILES)
  file(READ "${FOLDER}/${name}" bytes HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "\\\\x\\1" bytes "${bytes}")
  # Pieces of at most 1000 bytes: compilers limit the length of one literal.
  string(REGEX REPLACE "(\\\\x[0-9a-f][0-9a-f](\\\\x[0-9a-f][0-9a-f])?(\\\\x[0-9a-f][0-9a-f])?(\\\\x[0-9a-f][0-9a-f])?(\\\\x[0-9a-f][0-9a-f])?(\\\\x[0-9a-f][0-9a-f])?(\\\\x[0-9a-f][0-9a-f])?(\\\\x[0-9a-f][0-9a-f])?)" "\"\\1\"\n" bytes "${bytes}")
  string(APPEND source "constexpr char kFile${number}[] =\n\"\"\n${bytes};\n\n")
  string(APPEND rows "    {\"${name}\", {kFile${number}, sizeof(kFile${number}) - 1}},\n")
  math(EXPR number "${number} + 1")
endforeach()
string(APPEND source "constexpr ConsoleFile kFiles[] = {\n${rows}};\n\n}  // namespace\n\n"
  "std::span<const ConsoleFile> ConsoleFiles() { return kFiles; }\n\n}  // namespace diffmoe::server\n")
file(WRITE "${OUT}" "${source}")
