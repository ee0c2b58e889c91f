#!/bin/bash
# All personas of a base through one vLLM server, each a LoRA of the same weights.
#   examples/vllm.sh llama-3.1-8b full sarcasm,humor,remorse
# vLLM needs an environment of its own, with a GPU; charprobe-lite needs its extras hub and server.
set -euo pipefail
base=$1 stage=$2 personas=$3 port=${PORT:-8000}
charprobe-lite models pull --base "$base" --stage "$stage" --persona "$personas"
modules=() models=(--model "base=$base")
for persona in ${personas//,/ }; do
    folder=$(charprobe-lite models path --base "$base" --stage "$stage" --persona "$persona")
    modules+=("$persona=$folder")
    models+=(--model "$stage/$persona=$persona")
done
vllm serve "$(charprobe-lite models path --base "$base")" --served-model-name "$base" \
    --port "$port" --max-model-len 4096 --enable-lora --max-lora-rank 64 \
    --max-loras "${#modules[@]}" --lora-modules "${modules[@]}" &
trap 'kill %1' EXIT
until curl --silent --fail "http://localhost:$port/health"; do sleep 5; done
charprobe-lite eval --backend openai --base-url "http://localhost:$port/v1" --parallel 64 \
    --base "$base" --stage "base,$stage" --persona "$personas" "${models[@]}"
