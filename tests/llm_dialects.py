"""The two wire formats that `llm_server.py` speaks: what a request must hold, how replies and errors are written."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class Model:
    """A model that the server knows. `thinking`: how it may be asked to think before it answers."""

    id: str
    thinking: Literal["never", "enabled", "adaptive"] = "never"
    max_tokens: int = 64_000


class Refused(Exception):
    """The request is not one that the provider answers."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class Answer(Protocol):
    """What a reply is made of: `llm_server.Say`."""

    text: str
    thinking: str
    stop: Literal["end", "cut", "refused"]
    input: int | None
    cached: int
    written: int
    output: int


class Dialect(Protocol):
    def check_key(self, headers: Mapping[str, str], key: str) -> None: ...
    def check(self, path: str, body: Any, models: Mapping[str, Model]) -> None: ...
    def catalogue(self, path: str, models: Mapping[str, Model]) -> Any: ...
    def error(self, status: int, message: str, code: str | None) -> Any: ...
    def stream_error(self, message: str) -> str: ...
    def reply(self, say: Answer, body: Any) -> Any: ...
    def events(self, reply: Any, body: Any) -> Iterator[str]: ...
    def beginning(self, events: Iterator[str]) -> list[str]: ...


def demand(condition: object, message: str, code: str | None = None) -> None:
    if not condition:
        raise Refused(400, message, code)


def pieces(text: str) -> Iterator[str]:
    """The text in a few pieces, as a stream brings it."""
    size = max(1, -(-len(text) // 4))
    return (text[start : start + size] for start in range(0, len(text), size))


def named(path: str, models: Mapping[str, Model]) -> Model | None:
    """The model of GET /v1/models/ID; None for GET /v1/models."""
    if path == "/v1/models":
        return None
    id = path.removeprefix("/v1/models/")
    if id == path:
        raise Refused(404, f"no such path: {path}")
    return known(id, models)


def known(id: object, models: Mapping[str, Model]) -> Model:
    if id not in models:
        raise Refused(404, f"model: {id} does not exist", "model_not_found")
    return models[str(id)]


# ---------------------------------------------------------------------------------------------- Anthropic

_ERRORS = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 429: "rate_limit_error", 504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip


class Anthropic:
    """POST /v1/messages and GET /v1/models."""

    def check_key(self, headers: Mapping[str, str], key: str) -> None:
        given = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        if given != key:
            raise Refused(401, "invalid x-api-key")
        demand("anthropic-version" in headers, "anthropic-version: header is required")

    def check(self, path: str, body: Any, models: Mapping[str, Model]) -> None:
        if path != "/v1/messages":
            raise Refused(404, "Not Found")
        demand(isinstance(body, dict), "The request body is not valid JSON")
        for name in ("model", "max_tokens", "messages"):
            demand(name in body, f"{name}: Field required")
        model = known(body["model"], models)
        limit = body["max_tokens"]
        demand(type(limit) is int and limit >= 1, "max_tokens: Input should be greater than or equal to 1")
        demand(limit <= model.max_tokens, f"max_tokens: {limit} > {model.max_tokens}, which is the maximum allowed")
        self._check_messages(body)
        self._check_thinking(body.get("thinking") or {"type": "disabled"}, model, limit)

    def _check_messages(self, body: Any) -> None:
        messages = body["messages"]
        demand(messages and messages[0]["role"] == "user", "messages: first message must use the user role")
        demand(messages[-1]["role"] == "user", "This model does not support assistant message prefill.")
        blocks = body.get("system", [])
        texts = [blocks] if isinstance(blocks, str) else list(blocks)
        for message in messages:
            role, content = message["role"], message["content"]
            demand(role in ("user", "assistant"), f'messages: Unexpected role "{role}"')
            texts += [content] if isinstance(content, str) else content
        for text in texts:
            said = text if isinstance(text, str) else text.get("text")
            demand(said and said.strip(), "messages: text content blocks must be non-empty")
        marked = [t["cache_control"] for t in texts if isinstance(t, dict) and t.get("cache_control")]
        demand(len(marked) <= 4, "A maximum of 4 blocks with cache_control may be provided.")
        demand(all(mark.get("type") == "ephemeral" for mark in marked), "cache_control.type: should be 'ephemeral'")

    def _check_thinking(self, thinking: Any, model: Model, limit: int) -> None:
        kind = thinking["type"]
        demand(kind in ("disabled", model.thinking), f"thinking.type: {kind} is not supported for this model")
        if kind == "enabled":
            budget = thinking.get("budget_tokens", 0)
            demand(budget >= 1024, "thinking.enabled.budget_tokens: should be greater than or equal to 1024")
            demand(budget < limit, "max_tokens must be greater than thinking.budget_tokens")

    def catalogue(self, path: str, models: Mapping[str, Model]) -> Any:
        if model := named(path, models):
            return self._about(model)
        data = [self._about(model) for model in models.values()]
        return {"data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]}

    def _about(self, model: Model) -> Any:
        yes, no = {"supported": True}, {"supported": False}
        kinds = {kind: yes if kind in ("disabled", model.thinking) else no
                 for kind in ("adaptive", "between_tools", "disabled", "enabled")}  # fmt: skip
        capabilities = {
            "batch": no, "citations": no, "code_execution": no, "image_input": no, "pdf_input": no,
            "structured_outputs": no,
            "context_management": no,
            "effort": {"supported": False, "low": no, "medium": no, "high": no, "max": no, "xhigh": no},
            "server_tools": {"supported": False, "code_execution": no, "web_search": no},
            "thinking": {"supported": model.thinking != "never", "types": kinds},
        }  # fmt: skip
        return {
            "type": "model", "id": model.id, "display_name": model.id.title(), "created_at": "2026-01-01T00:00:00Z",
            "lifecycle": "active", "deprecated_at": None, "retires_at": None, "line": None,
            "max_input_tokens": 200_000, "max_tokens": model.max_tokens, "capabilities": capabilities,
        }  # fmt: skip

    def error(self, status: int, message: str, code: str | None) -> Any:
        kind = _ERRORS.get(status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_011"}

    def stream_error(self, message: str) -> str:
        return self._event("error", {"type": "error", "error": {"type": "overloaded_error", "message": message}})

    def reply(self, say: Answer, body: Any) -> Any:
        refused = say.stop == "refused"
        cut = say.stop == "cut" or say.output > body["max_tokens"]
        content: list[Any] = []
        if say.thinking:
            content.append({"type": "thinking", "thinking": say.thinking, "signature": "EqQBCgIYAg=="})
        if say.text:
            content.append({"type": "text", "text": say.text, "citations": None})
        details = {"type": "refusal", "category": None, "explanation": "This is not for me to answer."}
        return {
            "id": "msg_01", "type": "message", "role": "assistant", "model": body["model"], "content": content,
            "stop_reason": "refusal" if refused else "max_tokens" if cut else "end_turn", "stop_sequence": None,
            "stop_details": details if refused else None, "usage": self._usage(say, body),
        }  # fmt: skip

    def _usage(self, say: Answer, body: Any) -> Any:
        """The cached and the written part of a prompt are counted apart from the rest of it."""
        hour = '"ttl": "1h"' in json.dumps(body)
        return {
            "input_tokens": (say.input or 0) - say.cached - say.written,
            "cache_read_input_tokens": say.cached,
            "cache_creation_input_tokens": say.written,
            "cache_creation": {
                "ephemeral_5m_input_tokens": 0 if hour else say.written,
                "ephemeral_1h_input_tokens": say.written if hour else 0,
            },
            "output_tokens": min(say.output, body["max_tokens"]),
            "service_tier": "standard",
        }

    def events(self, reply: Any, body: Any) -> Iterator[str]:
        usage = reply["usage"]
        start = reply | {
            "content": [],
            "stop_reason": None,
            "stop_details": None,
            "usage": usage | {"output_tokens": 1},
        }
        yield self._event("message_start", {"type": "message_start", "message": start})
        yield self._event("ping", {"type": "ping"})
        for index, block in enumerate(reply["content"]):
            kind = block["type"]
            empty = {name: "" if isinstance(value, str) and name != "type" else value for name, value in block.items()}
            deltas: list[Any] = [{"type": f"{kind}_delta", kind: piece} for piece in pieces(block[kind])]
            if kind == "thinking":
                deltas.append({"type": "signature_delta", "signature": block["signature"]})
            yield self._event("content_block_start", {"index": index, "content_block": empty})
            for delta in deltas:
                yield self._event("content_block_delta", {"index": index, "delta": delta})
            yield self._event("content_block_stop", {"index": index})
        end = {name: reply[name] for name in ("stop_reason", "stop_sequence", "stop_details")}
        told = {name: usage[name] for name in usage if name.endswith("_tokens")}
        yield self._event("message_delta", {"delta": end, "usage": told})
        yield self._event("message_stop", {})

    def _event(self, name: str, data: Any) -> str:
        return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n"

    def beginning(self, events: Iterator[str]) -> list[str]:
        """Until the first piece of text."""
        return [next(events) for _ in range(4)]


# ---------------------------------------------------------------------------------------------- OpenAI


class OpenAI:
    """POST /v1/chat/completions and GET /v1/models."""

    def check_key(self, headers: Mapping[str, str], key: str) -> None:
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if given != key:
            hidden = given[:8] + "*" * 8 + given[-4:]
            raise Refused(401, f"Incorrect API key provided: {hidden}.", "invalid_api_key")

    def check(self, path: str, body: Any, models: Mapping[str, Model]) -> None:
        if path != "/v1/chat/completions":
            raise Refused(404, f"Invalid URL (POST {path})")
        demand(isinstance(body, dict), "We could not parse the JSON body of your request.")
        for name in ("model", "messages"):
            demand(name in body, f"Missing required parameter: '{name}'.", "missing_required_parameter")
        model = known(body["model"], models)
        roles = {message["role"] for message in body["messages"]}
        demand(roles <= {"developer", "system", "user", "assistant"}, "Invalid value for 'role'.", "invalid_value")
        demand(roles, "[] is too short - 'messages'", "empty_array")
        thinks = model.thinking != "never"
        demand(
            not (thinks and "max_tokens" in body),
            "Unsupported parameter: 'max_tokens' is not supported with this model.",
            "unsupported_parameter",
        )
        demand(thinks or "reasoning_effort" not in body, "Unrecognized request argument: reasoning_effort")
        demand(body.get("stream") or "stream_options" not in body, "'stream_options' is only allowed with 'stream'.")
        limit, most = self._limit(body), model.max_tokens
        demand(
            limit is None or 1 <= limit <= most,
            f"max_tokens is too large: {limit}. This model supports at most {most} completion tokens, whereas you"
            f" provided {limit}.",
            "invalid_value",
        )

    def _limit(self, body: Any) -> int | None:
        return body.get("max_completion_tokens") or body.get("max_tokens")

    def catalogue(self, path: str, models: Mapping[str, Model]) -> Any:
        if model := named(path, models):
            return self._about(model)
        return {"object": "list", "data": [self._about(model) for model in models.values()]}

    def _about(self, model: Model) -> Any:
        return {"id": model.id, "object": "model", "created": 1_767_225_600, "owned_by": "system"}

    def error(self, status: int, message: str, code: str | None) -> Any:
        kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
        return {"error": {"message": message, "type": kind, "param": None, "code": code}}

    def stream_error(self, message: str) -> str:
        return self._event({"error": {"message": message, "type": "server_error", "param": None, "code": None}})

    def reply(self, say: Answer, body: Any) -> Any:
        limit = self._limit(body)
        cut = say.stop == "cut" or (limit is not None and say.output > limit)
        refused = say.stop == "refused"
        message: dict[str, Any] = {"role": "assistant", "content": say.text, "refusal": None, "annotations": []}
        if refused and not say.text:
            message |= {"content": None, "refusal": "I'm sorry, I can't help with that."}
        reply = {
            "id": "chatcmpl-01", "object": "chat.completion", "created": 1_767_225_600, "model": body["model"],
            "system_fingerprint": None, "service_tier": "default",
            "choices": [{
                "index": 0, "message": message, "logprobs": None,
                "finish_reason": "length" if cut else "content_filter" if refused and say.text else "stop",
            }],
        }  # fmt: skip
        return reply | ({} if say.input is None else {"usage": self._usage(say, limit)})

    def _usage(self, say: Answer, limit: int | None) -> Any:
        output = say.output if limit is None else min(say.output, limit)
        details = {"cached_tokens": say.cached, "audio_tokens": 0}
        return {
            "prompt_tokens": say.input, "completion_tokens": output, "total_tokens": (say.input or 0) + output,
            "prompt_tokens_details": details | ({"cache_write_tokens": say.written} if say.written else {}),
            "completion_tokens_details": {
                "reasoning_tokens": output // 2 if say.thinking else 0, "audio_tokens": 0,
                "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
            },
        }  # fmt: skip

    def events(self, reply: Any, body: Any) -> Iterator[str]:
        with_usage = (body.get("stream_options") or {}).get("include_usage") and "usage" in reply
        common = {name: reply[name] for name in ("id", "created", "model", "system_fingerprint", "service_tier")}
        common |= {"object": "chat.completion.chunk"} | ({"usage": None} if with_usage else {})
        (choice,) = reply["choices"]

        def chunk(delta: Any, finish: str | None = None) -> str:
            one = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            return self._event({**common, "choices": [one]})

        message = choice["message"]
        yield chunk({"role": "assistant", "content": "", "refusal": None})
        for name in ("content", "refusal"):
            for piece in pieces(message[name] or ""):
                yield chunk({name: piece})
        yield chunk({}, choice["finish_reason"])
        if with_usage:
            yield self._event({**common, "choices": [], "usage": reply["usage"]})
        yield "data: [DONE]\n\n"

    def _event(self, data: Any) -> str:
        return f"data: {json.dumps(data)}\n\n"

    def beginning(self, events: Iterator[str]) -> list[str]:
        """Until the first piece of text."""
        return [next(events) for _ in range(2)]


DIALECTS: dict[str, Dialect] = {"anthropic": Anthropic(), "openai": OpenAI()}
