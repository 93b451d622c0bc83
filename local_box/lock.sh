#!/usr/bin/env bash
# Make the lock files anew: hashes, no URLs. CPU torch has to be in pip's reach (a find-links wheel, or PyTorch's index).
set -euo pipefail
cd "$(dirname "$0")/.."
lock() {
    uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate "$@"
}

lock --universal --python-version 3.11 requirements.in -o requirements.txt

cd roles/torch/files
box=(--python-platform x86_64-manylinux_2_28 -c constraints.txt)
lock "${box[@]}" --python-version 3.11 ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} py311-cpu.in -o py311-cpu.txt

# The index's torch is for another CUDA and drags its libraries in; torch+cu118 has none of them as packages.
not_wanted=(--no-emit-package torch)
for library in cublas cuda-cupti cuda-nvrtc cuda-runtime cudnn cufft curand cusolver cusparse nccl nvjitlink nvtx; do
    not_wanted+=(--no-emit-package "nvidia-$library-cu11" --no-emit-package "nvidia-$library-cu12")
done
# Each release with the triton that its wheel's metadata asks for.
for pair in 2.0.1:2.0.0 2.1.2:2.1.0; do
    torch=${pair%:*} triton=${pair#*:}
    name=py310-cu118
    [ "$torch" = 2.0.1 ] || name=py310-cu118-torch$torch
    sed "s/^triton==.*/triton==$triton/" py310-cu118.in |
        lock "${box[@]}" --python-version 3.10 "${not_wanted[@]}" - -o "$name.txt"
    python3 - "$torch" >>"$name.txt" <<'END'
import sys
import yaml
version = sys.argv[1]
wheel = yaml.safe_load(open("../../../artifacts/torch.yml"))[f"torch-{version}-cu118"]["files"][0]
print(f"torch=={version}+cu118 \\\n    --hash=sha256:{wheel['sha256']}")
END
done
