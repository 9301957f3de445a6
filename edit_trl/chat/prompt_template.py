"""
Prompts in files: Jinja's syntax, and lines `[system]`, `[user]` or `[assistant]` that begin a message.

Synthesis uses such prompts for its teacher, evaluation for its judge. A value that is filled in is never read as a
part of the template: a question may contain a line `[assistant]` or `{{ braces }}`.
"""

import re
from pathlib import Path
from typing import Any


# Lines of a template that begin a message. While values are filled in, such a line is `_FILLED_ROLE`, which no value
# can contain.
_ROLE = re.compile(r"^\[(system|user|assistant)\][ \t]*\n", re.MULTILINE)
_FILLED_ROLE = re.compile("\0(system|user|assistant)\0")


class PromptTemplate:
    """
    A prompt in a file.

    Args:
        path (`str` or `Path`):
            The file.

    Raises:
        ValueError: If the file is not text in Jinja's syntax.

    Examples:

    ```python
    >>> from pathlib import Path
    >>> _ = Path("capital.txt").write_text("[system]\\nBe brief.\\n[user]\\nWhat is the capital of {{ country }}?")
    >>> PromptTemplate("capital.txt").render(country="Peru")
    [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'What is the capital of Peru?'}]

    ```
    """

    def __init__(self, path: str | Path) -> None:
        import jinja2

        self.path = Path(path)
        environment = jinja2.Environment(
            undefined=jinja2.StrictUndefined,
            autoescape=False,
            finalize=lambda value: value.replace("\0", "") if isinstance(value, str) else value,
        )
        try:
            self.source = self.path.read_text(encoding="utf-8-sig")
            self._template = environment.from_string(_ROLE.sub("\0\\1\0", self.source))
        except (jinja2.TemplateError, UnicodeError) as error:
            raise ValueError(f"The template {self.path} must be text in Jinja's syntax, but: {error}.") from None

    def render(self, **values: Any) -> list[dict[str, str]]:
        """
        Fill in the variables of the template.

        Args:
            **values:
                Values of the variables, by name.

        Returns:
            `list[dict[str, str]]`: Messages with `role` and `content`. A template without roles is one message of the
            user.

        Raises:
            ValueError: If the template uses a variable that is not in `values`.
        """
        import jinja2

        try:
            text = self._template.render(**values)
        except jinja2.TemplateError as error:
            raise ValueError(
                f"The template `{self.path.name}` must use no variables but "
                f"{', '.join(f'`{value}`' for value in values)}, but: {error}."
            ) from None
        first, *parts = _FILLED_ROLE.split(text)
        messages = zip(["user", *parts[::2]], [first, *parts[1::2]], strict=True)
        return [{"role": role, "content": content.strip()} for role, content in messages if content.strip()]
