"""What a listing's query may hold, as the document tells it: what is absent is not null there."""

from typing import Annotated, Literal

from pydantic import WithJsonSchema

Text = Annotated[str | None, WithJsonSchema({"type": "string"})]
Limit = Annotated[int | None, WithJsonSchema({"type": "integer"})]
# The service judges it, in OpenAI's words; empty is absent.
Order = Annotated[str | None, WithJsonSchema({"type": "string", "enum": ["asc", "desc", ""]})]
Format = Annotated[Literal["csv"] | None, WithJsonSchema({"type": "string", "enum": ["csv"]})]
