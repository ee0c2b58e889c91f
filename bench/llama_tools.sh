#!/bin/sh
# Builds llama-server and llama-perplexity in FOLDER/bin, out of the sources that the installed
# llama-cpp-python was built from, so that both sides of a benchmark are one llama.cpp.
#
#     sh bench/llama_tools.sh [FOLDER]        FOLDER: build/llama.cpp
#
# Needs cmake, a C++ compiler and pip; about ten minutes on two cores. Ended early, it goes on
# where it was. Further options for cmake: CMAKE_ARGS=-DGGML_CUDA=on.
set -eu
folder=${1:-build/llama.cpp}
python=${PYTHON:-python}
version=$("$python" -c 'from importlib.metadata import version; print(version("llama-cpp-python"))')
mkdir -p "$folder"
if [ ! -d "$folder/llama_cpp_python-$version" ]; then
    "$python" -m pip download --disable-pip-version-check --no-deps --no-build-isolation \
        --no-binary llama-cpp-python --dest "$folder" "llama-cpp-python==$version" ||
        "$python" -m pip download --disable-pip-version-check --no-deps \
            --no-binary llama-cpp-python --dest "$folder" "llama-cpp-python==$version"
    tar -xzf "$folder/llama_cpp_python-$version.tar.gz" -C "$folder"
fi
# shellcheck disable=SC2086  # several options in one variable
cmake -S "$folder/llama_cpp_python-$version/vendor/llama.cpp" -B "$folder" \
    -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DLLAMA_OPENSSL=OFF \
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_APP=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF ${CMAKE_ARGS:-}
cmake --build "$folder" --parallel "${JOBS:-$(getconf _NPROCESSORS_ONLN)}" \
    --target llama-server llama-perplexity
ls "$folder/bin/llama-server" "$folder/bin/llama-perplexity"
