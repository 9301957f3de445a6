"""
Chat templates in the manner of known models, in few words: what each does with reasoning, tools and whitespace.
"""

_END = "<|im_end|>\n"

# DeepSeek-R1 and its distils keep what comes after the last `</think>`, and open the tag for the answer to come.
R1 = (
    "{% for m in messages %}{% if m.role == 'user' %}<User>{{ m.content }}{% endif %}"
    "{% if m.role == 'assistant' %}{% set text = m.content or '' %}"
    "{% if '</think>' in text %}{% set text = text.split('</think>')[-1] %}{% endif %}"
    "<Assistant>{{ text }}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<Assistant><think>\n{% endif %}"
)
# QwQ: the same mechanism in ChatML.
QWQ = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{{ m.content.split('</think>')[-1].lstrip('\n') }}"
    "{% else %}{{ m.content }}{% endif %}"
    + _END
    + "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
# Qwen3 renders the reasoning of what comes after the last question, from the text or from `reasoning_content`.
QWEN3 = (
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% set text = m.content or '' %}"
    "{% if m.role == 'assistant' %}{% set thoughts = '' %}"
    "{% if m.reasoning_content is string %}{% set thoughts = m.reasoning_content %}"
    "{% elif '</think>' in text %}"
    "{% set thoughts = text.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.index0 > ns.last %}<think>\n{{ thoughts.strip('\n') }}\n</think>\n\n{% endif %}{% endif %}"
    "{{ text }}"
    "{% for call in m.tool_calls or [] %}\n<tool_call>\n{{ call.function | tojson }}\n</tool_call>{% endfor %}"
    + _END
    + "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
# gpt-oss has channels: `thinking` is the analysis, and only that of the last message is rendered.
GPT_OSS = (
    "<|start|>system<|message|>You are ChatGPT.<|end|>"
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% if m.thinking and loop.last %}"
    "<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}"
    "<|start|>assistant<|channel|>final<|message|>{{ m.content }}{{ '<|return|>' if loop.last else '<|end|>' }}"
    "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
# Magistral writes other tags in place of `<think>`.
MAGISTRAL = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% elif m.role == 'assistant' %}"
    "{{ m.content.replace('<think>', '[THINK]').replace('</think>', '[/THINK]') }}</s>{% endif %}{% endfor %}"
)
# SmolLM3 writes an empty block of thoughts, knows no fields of reasoning, and no contents that are lists.
SMOLLM3 = (
    "<|im_start|>system\n## Metadata\nReasoning Mode: /no_think\n" + _END + "{% for m in messages %}"
    "{% set text = m.content if m.content is string else '' %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}<think>\n\n</think>\n{{ text.lstrip('\n') }}{% else %}{{ text }}{% endif %}"
    + _END
    + "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n{% endif %}"
)
# Gemma joins the system prompt to the first question, trims, and has another name for the assistant.
GEMMA = (
    "{% set system = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"
    "{% for m in messages %}{% if m.role != 'system' %}<start_of_turn>"
    "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ system if loop.index0 < 2 and m.role == 'user' else '' }}"
    "{{ m.content | trim }}<end_of_turn>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# Llama 3 renders the calls of a message in place of its content.
LLAMA3 = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{% if m.tool_calls %}{% set call = m.tool_calls[0].function %}"
    '{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}'
    "{% else %}{{ m.content | trim }}{% endif %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# Templates that change characters, and one that begins the answer.
JSON = "{% for m in messages %}{{ {'role': m.role, 'content': m.content} | tojson }}\n{% endfor %}"
HTML = "{% for m in messages %}<p>{{ m.content | e | upper }}</p>{% endfor %}"
PREFIX = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: Let's think step by step.{% endif %}"
)
SHORT = "{% for m in messages %}{{ m.role }}: {{ m.content[:20] }}\n{% endfor %}"
