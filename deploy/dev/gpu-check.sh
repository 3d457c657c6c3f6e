#!/usr/bin/env bash
# Runs the GPU-labelled tests. Needs an NVIDIA GPU with its driver and a CUDA compiler.
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. deploy/dev/common.sh

nvidia-smi -L 2>/dev/null || die "no NVIDIA GPU here (nvidia-smi finds none): nothing was checked"
command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ] || die "no CUDA compiler here (nvcc): nothing was checked"
exec deploy/dev/test.sh --label gpu
