//! What each server calls things. Where a server has renamed something, the newer name comes first.

use std::fmt;

/// Which server's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// <https://docs.vllm.ai/en/stable/usage/metrics/>
    Vllm,
    /// <https://docs.sglang.io/references/production_metrics.html>, with `--enable-metrics`.
    Sglang,
    /// llama.cpp's `llama-server --metrics`.
    LlamaCpp,
    /// <https://huggingface.co/docs/text-generation-inference/reference/metrics>
    Tgi,
    /// Which has no metrics, and says what it has loaded: <https://docs.ollama.com/api/ps>
    Ollama,
}

impl Kind {
    /// Those that have metrics.
    pub(crate) const ALL: [Self; 4] = [Self::Vllm, Self::Sglang, Self::LlamaCpp, Self::Tgi];

    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Vllm => "vllm:",
            Self::Sglang => "sglang:",
            Self::LlamaCpp => "llamacpp:",
            Self::Tgi => "tgi_",
            Self::Ollama => "ollama_",
        }
    }

    /// Which of its names mean what.
    pub(crate) fn names(self) -> &'static [(Meaning, &'static str)] {
        match self {
            Self::Vllm => &VLLM,
            Self::Sglang => &SGLANG,
            Self::LlamaCpp => &LLAMA_CPP,
            Self::Tgi => &TGI,
            Self::Ollama => &[],
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Vllm => "vLLM",
            Self::Sglang => "SGLang",
            Self::LlamaCpp => "llama.cpp",
            Self::Tgi => "TGI",
            Self::Ollama => "Ollama",
        })
    }
}

/// What a metric says. Counters are since the server started; times are in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Meaning {
    Running,
    Waiting,
    /// 0 to 1.
    KvUsedShare,
    /// Prompt tokens that were looked up, and those that were found.
    PrefixAsked,
    PrefixFound,
    Preemptions,
    /// Counted by how they ended, where a label says it.
    Ended,
    Failed,
    Cancelled,
    TokensIn,
    TokensOut,
    /// Tokens guessed ahead, and those that were right.
    Guessed,
    GuessedRight,
    Queue,
    Ttft,
    Itl,
    E2e,
}

use Meaning::*;

const VLLM: [(Meaning, &str); 21] = [
    (Running, "vllm:num_requests_running"),
    (Waiting, "vllm:num_requests_waiting"),
    (KvUsedShare, "vllm:kv_cache_usage_perc"),
    (KvUsedShare, "vllm:gpu_cache_usage_perc"),
    (PrefixAsked, "vllm:prefix_cache_queries_total"),
    (PrefixAsked, "vllm:gpu_prefix_cache_queries_total"),
    (PrefixFound, "vllm:prefix_cache_hits_total"),
    (PrefixFound, "vllm:gpu_prefix_cache_hits_total"),
    (Preemptions, "vllm:num_preemptions_total"),
    (Ended, "vllm:request_success_total"),
    (TokensIn, "vllm:prompt_tokens_total"),
    (TokensOut, "vllm:generation_tokens_total"),
    (Guessed, "vllm:spec_decode_num_draft_tokens_total"),
    (GuessedRight, "vllm:spec_decode_num_accepted_tokens_total"),
    (Queue, "vllm:request_queue_time_seconds"),
    (Ttft, "vllm:time_to_first_token_seconds"),
    (Itl, "vllm:inter_token_latency_seconds"),
    (Itl, "vllm:time_per_output_token_seconds"),
    (E2e, "vllm:e2e_request_latency_seconds"),
    (Cancelled, "vllm:request_abort_total"),
    (Failed, "vllm:request_failure_total"),
];

const SGLANG: [(Meaning, &str); 15] = [
    (Running, "sglang:num_running_reqs"),
    (Waiting, "sglang:num_queue_reqs"),
    (KvUsedShare, "sglang:token_usage"),
    (PrefixAsked, "sglang:prompt_tokens_total"),
    (PrefixFound, "sglang:cached_tokens_total"),
    (Preemptions, "sglang:num_retracted_requests_total"),
    (Ended, "sglang:num_requests_total"),
    (Cancelled, "sglang:num_aborted_requests_total"),
    (TokensIn, "sglang:prompt_tokens_total"),
    (TokensOut, "sglang:generation_tokens_total"),
    (Queue, "sglang:queue_time_seconds"),
    (Ttft, "sglang:time_to_first_token_seconds"),
    (Itl, "sglang:inter_token_latency_seconds"),
    (Itl, "sglang:time_per_output_token_seconds"),
    (E2e, "sglang:e2e_request_latency_seconds"),
];

const LLAMA_CPP: [(Meaning, &str); 5] = [
    (Running, "llamacpp:requests_processing"),
    (Waiting, "llamacpp:requests_deferred"),
    (KvUsedShare, "llamacpp:kv_cache_usage_ratio"),
    (TokensIn, "llamacpp:prompt_tokens_total"),
    (TokensOut, "llamacpp:tokens_predicted_total"),
];

const TGI: [(Meaning, &str); 9] = [
    (Running, "tgi_batch_current_size"),
    (Waiting, "tgi_queue_size"),
    (Ended, "tgi_request_success"),
    (Failed, "tgi_request_failure"),
    (TokensIn, "tgi_request_input_length_sum"),
    (TokensOut, "tgi_request_generated_tokens_sum"),
    (Queue, "tgi_request_queue_duration"),
    (Itl, "tgi_request_mean_time_per_token_duration"),
    (E2e, "tgi_request_duration"),
];

impl Meaning {
    /// Whether it is a distribution, with a name for each bucket.
    pub(crate) fn is_distribution(self) -> bool {
        matches!(self, Queue | Ttft | Itl | E2e)
    }
}
