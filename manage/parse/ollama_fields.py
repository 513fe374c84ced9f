"""The fields and options of Ollama's API, by name; it knows no request.

Source: GenerateRequest, ChatRequest, Message, Options and Runner in api/types.go of ollama/ollama.
"""
from __future__ import annotations

_COMMON_FIELDS = {
    "stream": (bool,),
    "format": (str, dict),
    "keep_alive": (str, int, float),
    "options": (dict,),
    "think": (bool, str),
    "truncate": (bool,),
    "shift": (bool,),
    "logprobs": (bool,),
    "top_logprobs": (int,),
}

# POST /api/generate takes these besides prompt and model.
GENERATE_FIELDS = {
    **_COMMON_FIELDS,
    "suffix": (str,),
    "system": (str,),
    "template": (str,),
    "context": (list,),
    "raw": (bool,),
    "images": (list,),
}

# POST /api/chat takes these besides messages and model.
CHAT_FIELDS = {**_COMMON_FIELDS, "tools": (list,)}

# A message of /api/chat.
MESSAGE_FIELDS = {
    "role": (str,),
    "content": (str,),
    "thinking": (str,),
    "images": (list,),
    "tool_calls": (list,),
    "tool_name": (str,),
    "tool_call_id": (str,),
}

# The field "options" takes these. People put them beside the prompt, as other APIs do.
OPTIONS = frozenset((
    "frequency_penalty", "low_vram", "main_gpu", "min_p", "mirostat", "mirostat_eta",
    "mirostat_tau", "num_batch", "num_ctx", "num_gpu", "num_keep", "num_predict", "num_thread",
    "numa", "penalize_newline", "presence_penalty", "repeat_last_n", "repeat_penalty", "seed",
    "stop", "temperature", "tfs_z", "top_k", "top_p", "typical_p", "use_mlock", "use_mmap",
))
