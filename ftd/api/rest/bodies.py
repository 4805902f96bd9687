"""What clients may send to create a job: OpenAI's request, its types checked, its values not.

Null is the same as absent, unknown keys are ignored, and so is what lies beside the method's own
key. The values' bounds are the service's, which refuses in its own words; the document tells them.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from ftd.core.errors import invalid
from ftd.core.hyperparams import MAX_BATCH, MAX_EPOCHS, Requested
from ftd.core.models import MAX_SUFFIX
from ftd.service.jobs import (
    MAX_KEY,
    MAX_MULTIPLIER,
    MAX_PAIRS,
    MAX_SEED,
    MAX_VALUE,
    METHODS,
    PRIORITIES,
    CreateJob,
)

AUTO = "auto"


def bounds(least: float, most: float) -> dict[str, Any]:
    """A number's bounds, for the document alone."""
    return {"minimum": least, "maximum": most}


def _integer(value: object) -> object:
    """An integer, and 2.0 for 2; no true, no "2"."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise PydanticCustomError("int_type", "expected an integer")
    return value


def _integer_or_auto(value: object) -> object:
    if value == AUTO:
        return None
    try:
        return _integer(value)
    except PydanticCustomError:
        raise PydanticCustomError("int_type", "expected 'auto' or an integer") from None


def _number_or_auto(value: object) -> object:
    if value == AUTO:
        return None
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise PydanticCustomError("float_type", "expected 'auto' or a number")
    return value


def _auto_or(kind: str, **keywords: float) -> WithJsonSchema:
    known = [{"const": AUTO, "type": "string"}, {"type": kind, **keywords}, {"type": "null"}]
    return WithJsonSchema({"anyOf": known})


Integer = Annotated[int, BeforeValidator(_integer)]
AutoInteger = Annotated[int | None, BeforeValidator(_integer_or_auto)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
AutoNumber = Annotated[Finite | None, BeforeValidator(_number_or_auto)]


class HyperparametersBody(BaseModel):
    n_epochs: Annotated[AutoInteger, _auto_or("integer", minimum=1, maximum=MAX_EPOCHS)] = None
    batch_size: Annotated[AutoInteger, _auto_or("integer", minimum=1, maximum=MAX_BATCH)] = None
    learning_rate_multiplier: Annotated[
        AutoNumber, _auto_or("number", exclusiveMinimum=0, maximum=MAX_MULTIPLIER)
    ] = None

    def requested(self) -> Requested:
        return Requested(
            n_epochs=self.n_epochs,
            batch_size=self.batch_size,
            learning_rate_multiplier=self.learning_rate_multiplier,
        )


class SupervisedBody(BaseModel):
    hyperparameters: HyperparametersBody | None = None


class MethodBody(BaseModel):
    type: str = Field(json_schema_extra={"enum": list(METHODS)})
    supervised: SupervisedBody | None = None


class CreateJobBody(BaseModel):
    """OpenAI's request, and `priority`."""

    model: str = Field(description="A base model, an alias, a tuned model or a checkpoint.")
    training_file: str = Field(description="The id of a file with the purpose fine-tune.")
    validation_file: str | None = None
    method: MethodBody | None = None
    hyperparameters: HyperparametersBody | None = Field(
        None,
        json_schema_extra={"deprecated": True},
        description="The older place; method.supervised.hyperparameters wins.",
    )
    suffix: str | None = Field(
        None,
        json_schema_extra={"minLength": 1, "maxLength": MAX_SUFFIX},
        description="Of the tuned model's name.",
    )
    seed: Integer | None = Field(
        None, json_schema_extra=bounds(0, MAX_SEED), description="Drawn where absent."
    )
    integrations: list[Any] | None = Field(
        None, json_schema_extra={"maxItems": 0}, description="None is supported."
    )
    metadata: dict[str, str] | None = Field(
        None,
        json_schema_extra={
            "maxProperties": MAX_PAIRS,
            "propertyNames": {"maxLength": MAX_KEY},
            "additionalProperties": {"maxLength": MAX_VALUE},
        },
    )
    priority: Integer | None = Field(
        None,
        json_schema_extra=bounds(PRIORITIES[0], PRIORITIES[-1]),
        description="Higher goes first, default 0. An addition of ours.",
    )

    def request(self) -> CreateJob:
        """As the service takes it. Raises INVALID for integrations: none may be lost silently."""
        if self.integrations:
            raise invalid("integrations are not supported; leave them out.", param="integrations")
        return CreateJob(
            model=self.model,
            training_file=self.training_file,
            validation_file=self.validation_file,
            requested=self._hyperparameters().requested(),
            method="supervised" if self.method is None else self.method.type,
            suffix=self.suffix,
            seed=self.seed,
            metadata=self.metadata,
            priority=self.priority or 0,
        )

    def _hyperparameters(self) -> HyperparametersBody:
        supervised = self.method.supervised if self.method else None
        chosen = supervised.hyperparameters if supervised else None
        return chosen or self.hyperparameters or HyperparametersBody()
