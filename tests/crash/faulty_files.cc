// A library to preload (LD_PRELOAD) into a program: its file calls fail as a file says that the
// environment variable DIFFMOE_FAULTY_FILES names. The file holds "MODE PART": calls on files whose
// path holds PART fail. It is read at every call, so a test switches faults on and off while the
// program runs. MODE:
//   sync-eio    fsync and fdatasync fail with EIO
//   read-eio    reads fail with EIO
//   read-only   opening for writing, writing, renaming and removing fail with EROFS
// Without the variable, the file or a known mode nothing fails.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

struct Fault {
  char mode[32];
  char part[256];
};

// Raw system calls: the functions of the C library are the ones that are replaced here.
bool ReadFault(Fault* fault) {
  const char* path = getenv("DIFFMOE_FAULTY_FILES");
  if (path == nullptr) return false;
  const long fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  char text[300] = {};
  const long got = syscall(SYS_read, fd, text, sizeof(text) - 1);
  syscall(SYS_close, fd);
  return got > 0 && sscanf(text, "%31s %255s", fault->mode, fault->part) == 2;
}

bool PathFails(const char* mode, const char* path) {
  Fault fault;
  const int error = errno;
  const bool fails = path != nullptr && ReadFault(&fault) && strcmp(fault.mode, mode) == 0 &&
                     strstr(path, fault.part) != nullptr;
  errno = error;
  return fails;
}

bool FileFails(const char* mode, int fd) {
  Fault fault;
  const int error = errno;
  char link[64], path[4096] = {};
  snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
  const bool fails = ReadFault(&fault) && strcmp(fault.mode, mode) == 0 &&
                     readlink(link, path, sizeof(path) - 1) > 0 &&
                     strstr(path, fault.part) != nullptr;
  errno = error;
  return fails;
}

int Fail(int error) {
  errno = error;
  return -1;
}

template <typename Function>
Function Next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

int OpenFile(const char* name, const char* path, int flags, mode_t mode) {
  const bool writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT) != 0;
  if (writes && PathFails("read-only", path)) return Fail(EROFS);
  return Next<int (*)(const char*, int, ...)>(name)(path, flags, mode);
}

}  // namespace

extern "C" {

int fsync(int fd) {
  if (FileFails("sync-eio", fd)) return Fail(EIO);
  return static_cast<int>(syscall(SYS_fsync, fd));
}

int fdatasync(int fd) {
  if (FileFails("sync-eio", fd)) return Fail(EIO);
  return static_cast<int>(syscall(SYS_fdatasync, fd));
}

ssize_t pread(int fd, void* buffer, size_t count, off_t offset) {
  if (FileFails("read-eio", fd)) return Fail(EIO);
  return syscall(SYS_pread64, fd, buffer, count, offset);
}

ssize_t pread64(int fd, void* buffer, size_t count, off64_t offset) {
  return pread(fd, buffer, count, offset);
}

ssize_t write(int fd, const void* buffer, size_t count) {
  if (FileFails("read-only", fd)) return Fail(EROFS);
  return syscall(SYS_write, fd, buffer, count);
}

ssize_t pwrite(int fd, const void* buffer, size_t count, off_t offset) {
  if (FileFails("read-only", fd)) return Fail(EROFS);
  return syscall(SYS_pwrite64, fd, buffer, count, offset);
}

ssize_t pwrite64(int fd, const void* buffer, size_t count, off64_t offset) {
  return pwrite(fd, buffer, count, offset);
}

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  return OpenFile("open", path, flags, mode);
}

int open64(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  return OpenFile("open64", path, flags, mode);
}

int rename(const char* from, const char* to) {
  if (PathFails("read-only", to)) return Fail(EROFS);
  return static_cast<int>(syscall(SYS_rename, from, to));
}

int unlink(const char* path) {
  if (PathFails("read-only", path)) return Fail(EROFS);
  return static_cast<int>(syscall(SYS_unlink, path));
}

}  // extern "C"
