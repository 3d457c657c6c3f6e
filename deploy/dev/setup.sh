#!/usr/bin/env bash
# Installs what the build needs: Debian packages by apt, LibTorch as a Python wheel with a pinned hash. Does only what is
# missing. Works as root and as a user with sudo.
#
#   setup.sh [--for demo|test|lint]   what the machine shall be able to do; each includes the one before (default test)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. deploy/dev/common.sh

purpose=test
while [ $# -gt 0 ]; do
  case "$1" in
    --for)
      purpose=${2:-}
      shift 2 || die "--for needs a value"
      ;;
    *) die "unknown argument '$1'" ;;
  esac
done

packages=(
  # Compiler and build tools.
  g++ cmake ninja-build ccache mold
  # pip fetches LibTorch.
  python3-pip ca-certificates
  # Remote calls between the processes.
  libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc libabsl-dev
  # Storage, metrics, HTTP, headers of LibTorch's collectives, patterns.
  librocksdb-dev prometheus-cpp-dev libcivetweb-dev libgloo-dev libxxhash-dev libre2-dev
  # Command line, job specs, JSON.
  libcli11-dev libyaml-cpp-dev nlohmann-json3-dev
  # Images.
  libpng-dev libjpeg62-turbo-dev zlib1g-dev
  # Tests are part of the default build.
  libgtest-dev libgmock-dev libbenchmark-dev
  # Fashion-MNIST: 70,000 real images.
  dataset-fashion-mnist
)
case "$purpose" in
  demo) ;;
  # The console is tested in a browser without a screen.
  test) packages+=(clang-format chromium-headless-shell) ;;
  lint) packages+=(clang-format chromium-headless-shell clang-tidy) ;;
  *) die "--for takes demo, test or lint, not '$purpose'" ;;
esac

# as_root COMMAND...
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  else
    sudo "$@"
  fi
}

missing_packages() {
  local installed
  installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null |
    awk '$2 == "installed" {print $1}' || true)
  printf '%s\n' "$@" | grep -vxF -f <(printf '%s\n' "$installed" | grep . || echo ' ') || true
}

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages "${packages[@]}")
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null ||
    die "needs Debian 12: apt-get not found. Missing packages: ${missing[*]}"
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null ||
      die "needs root or sudo. As root: apt-get install --no-install-recommends ${missing[*]}"
    # Asks for the password here, where a person can see the question.
    sudo -v || die "sudo was refused. As root: apt-get install --no-install-recommends ${missing[*]}"
  fi
  say "installing ${#missing[@]} Debian packages: ${missing[*]}"
  with_progress "package lists" "$log_dir/apt-update.log" as_root apt-get -q update
  with_progress "Debian packages" "$log_dir/apt-install.log" as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get -q -y -o Dpkg::Use-Pty=0 install --no-install-recommends "${missing[@]}"
}

# The wheel's own Python doesn't matter, so any pip that knows the options will do; Debian's first.
find_pip() {
  local python
  for python in /usr/bin/python3 python3; do
    if "$python" -m pip --version >/dev/null 2>&1; then
      echo "$python"
      return 0
    fi
  done
  die "no python3 with pip found, although python3-pip is installed"
}

install_libtorch() {
  local target=$deps_dir/torch-2.11.0 python partial minor platforms=()
  [ ! -e "$target/torch/lib/libtorch_cpu.so" ] || return 0
  [ "$(uname -m)" = x86_64 ] || die "LibTorch is pinned for x86_64; this machine is $(uname -m)"
  python=$(find_pip)
  mkdir -p "$deps_dir"
  # One setup at a time; whoever waited finds the work done.
  exec 9>"$deps_dir/.lock"
  flock 9
  [ ! -e "$target/torch/lib/libtorch_cpu.so" ] || return 0
  rm -rf "$deps_dir"/.partial.*
  partial=$(mktemp -d "$deps_dir/.partial.XXXXXX")
  # Debian 12 has glibc 2.36: wheels built for any glibc from 2.17 to 2.28 run here.
  for minor in $(seq 28 -1 17); do platforms+=(--platform "manylinux_2_${minor}_x86_64"); done
  say "installing LibTorch 2.11.0 into $target (about 600 MB to download)"
  with_progress "LibTorch" "$log_dir/libtorch.log" "$python" -m pip install --disable-pip-version-check \
    --no-input --require-hashes --no-deps --only-binary=:all: --python-version 3.11 --implementation cp --abi cp311 \
    --abi none "${platforms[@]}" --progress-bar off --no-compile --root-user-action ignore \
    --target "$partial" -r deploy/dev/requirements.txt
  [ -e "$partial/torch/lib/libtorch_cpu.so" ] || die "the torch wheel holds no torch/lib/libtorch_cpu.so"
  chmod 755 "$partial"
  # Only a complete installation ever has the final name.
  rm -rf "$target"
  mv "$partial" "$target"
}

# Prometheus serves as test tool only: unpacked, not installed, so that no service is set up.
unpack_prometheus() {
  local target=$deps_dir/prometheus partial
  if command -v prometheus >/dev/null && command -v promtool >/dev/null; then return 0; fi
  [ ! -x "$target/usr/bin/promtool" ] || return 0
  command -v apt-get >/dev/null || die "needs Debian 12: apt-get not found"
  partial=$(mktemp -d "$deps_dir/.partial.XXXXXX")
  chmod 755 "$partial"
  say "unpacking Debian's prometheus into $target (a test tool; no service is installed)"
  (cd "$partial" && with_progress "prometheus" "$log_dir/prometheus.log" apt-get -q download prometheus) ||
    die "could not download the Debian package prometheus; run 'apt-get update' as root and try again"
  dpkg-deb -x "$partial"/prometheus_*.deb "$partial/tree"
  rm -rf "$target"
  mv "$partial/tree" "$target"
  rm -rf "$partial"
}

install_packages
install_libtorch
[ "$purpose" = demo ] || unpack_prometheus
say "ready for $purpose"
