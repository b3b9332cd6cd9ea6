"""The official client, unmodified, against an agent: python openai_client.py http://127.0.0.1:8080/v1"""

import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="none")
question = [{"role": "user", "content": "compute 52 + 28"}]

assert [model.id for model in client.models.list()] == ["assistant"]

whole = client.chat.completions.create(model="assistant", messages=question, temperature=0, logprobs=True, top_logprobs=2)
assert whole.choices[0].message.content == "80", whole
assert whole.choices[0].finish_reason == "stop"
assert len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens
assert whole.system_fingerprint.startswith("assistant@1")

stream = client.chat.completions.create(
    model="assistant", messages=question, temperature=0, stream=True, stream_options={"include_usage": True}
)
text, usage = "", None
for chunk in stream:
    text += "".join(choice.delta.content or "" for choice in chunk.choices)
    usage = chunk.usage or usage
assert (text, usage) == ("80", whole.usage), (text, usage)

completion = client.completions.create(model="assistant", prompt="compute", max_tokens=4, temperature=0, logprobs=1)
assert completion.usage.completion_tokens == 4 and len(completion.choices[0].logprobs.tokens) == 4

raw = client.chat.completions.with_raw_response.create(model="assistant", messages=question, max_tokens=1)
assert raw.headers["x-llmdeck-revision"] == "assistant@1"
assert raw.parse().choices[0].finish_reason == "length"

for refused, wrong in [
    (openai.NotFoundError, {"model": "nonesuch"}),
    (openai.BadRequestError, {"temperature": 9}),
    (openai.BadRequestError, {"messages": []}),
]:
    try:
        client.chat.completions.create(**{"model": "assistant", "messages": question, **wrong})
    except refused as error:
        assert error.param == next(iter(wrong)), error
    else:
        raise AssertionError(f"{wrong} was accepted")

print("openai", openai.__version__, "ok")
