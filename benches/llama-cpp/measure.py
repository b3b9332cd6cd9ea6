#!/usr/bin/env python3
"""Measures llama.cpp through its low-level API and prints one JSON object.

usage: measure.py MODEL.gguf THREADS TEXT

Steps are those that the engine's own measurement takes: a prompt in one batch of up to 512 tokens; then batches of one
token for each of several sequences, whose logits are all computed. The perplexity is that of the text's first 512 tokens.
"""
import json
import statistics
import sys
import time

import llama_cpp as llama
import numpy

PROMPTS, BATCHES, WARM, STEPS, REPEATS = (128, 512), (1, 2, 4, 8, 16), 8, 32, 3


def peak_bytes():
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024


def context(model, threads, sequences, tokens):
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_seq_max, params.n_batch, params.n_ubatch = tokens * sequences, sequences, 512, 512
    params.n_threads = params.n_threads_batch = threads
    return llama.llama_init_from_model(model, params)


def fill(batch, entries):
    batch.n_tokens = len(entries)
    for index, (token, position, sequence, logits) in enumerate(entries):
        batch.token[index], batch.pos[index], batch.logits[index] = token, position, logits
        batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence


def perplexity(model, threads, text):
    """The tokens of the text and their perplexity, each seen with all before it."""
    vocabulary = llama.llama_model_get_vocab(model)
    tokens = (llama.llama_token * len(text))()
    count = llama.llama_tokenize(vocabulary, text, len(text), tokens, len(text), True, False)
    count, size = min(count, 512), llama.llama_vocab_n_tokens(vocabulary)
    run = context(model, threads, 1, 512)
    batch = llama.llama_batch_init(512, 0, 1)
    fill(batch, [(tokens[i], i, 0, 1) for i in range(count)])
    assert llama.llama_decode(run, batch) == 0
    total = 0.0
    for index in range(count - 1):
        row = numpy.ctypeslib.as_array(llama.llama_get_logits_ith(run, index), shape=(size,)).astype(numpy.float64)
        peak = row.max()
        total += peak + numpy.log(numpy.exp(row - peak).sum()) - row[tokens[index + 1]]
    llama.llama_free(run)
    return list(tokens[:count]), float(numpy.exp(total / (count - 1)))


def main():
    path, threads = sys.argv[1].encode(), int(sys.argv[2])
    llama.llama_backend_init()
    began = time.perf_counter()
    model = llama.llama_model_load_from_file(path, llama.llama_model_default_params())
    result = {"load_s": time.perf_counter() - began, "prefill": {}, "decode": {}}
    batch = llama.llama_batch_init(512, 0, 1)
    for length in PROMPTS:
        rates = []
        run = context(model, threads, 1, length)
        # The first finds memory that was never touched, and does not count.
        for _ in range(1 + REPEATS):
            llama.llama_memory_clear(llama.llama_get_memory(run), True)
            fill(batch, [(1000 + i * 31 % 4000, i, 0, i == length - 1) for i in range(length)])
            began = time.perf_counter()
            assert llama.llama_decode(run, batch) == 0
            llama.llama_get_logits(run)
            rates.append(length / (time.perf_counter() - began))
        llama.llama_free(run)
        result["prefill"][length] = statistics.median(rates[1:])
    for sequences in BATCHES:
        run = context(model, threads, sequences, 256)

        def step(position):
            fill(batch, [(1000 + (position * 31 + i * 7) % 4000, position, i, 1) for i in range(sequences)])
            assert llama.llama_decode(run, batch) == 0
            llama.llama_get_logits(run)

        for position in range(WARM):
            step(position)
        rates = []
        for repeat in range(REPEATS):
            began = time.perf_counter()
            for index in range(STEPS):
                step(WARM + repeat * STEPS + index)
            rates.append(STEPS * sequences / (time.perf_counter() - began))
        result["decode"][sequences] = statistics.median(rates)
        llama.llama_free(run)
    result["peak_bytes"] = peak_bytes()
    with open(sys.argv[3], "rb") as text:
        result["tokens"], result["perplexity"] = perplexity(model, threads, text.read())
    print(json.dumps(result))


main()
