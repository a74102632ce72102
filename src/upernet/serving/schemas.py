"""What the OpenAPI document says of requests and answers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from upernet.inference import Parser
from upernet.taxonomy import LEVEL_KINDS


class Error(BaseModel):
    """Why a request is not answered."""

    error: str = Field(description="One sentence: what is wrong, and what to do.")
    request_id: str


class Health(BaseModel):
    """State of the process."""

    status: str
    version: str


class ModelLevel(BaseModel):
    """A level of a model."""

    name: str
    dense: bool = Field(description="Whether each pixel has a label; else the photo has one.")
    classes: int


class Model(BaseModel):
    """A model of the server."""

    name: str
    default: bool
    description: str
    levels: list[ModelLevel]
    license: str = Field(description="Terms of the weights; empty: not known.")
    research_only: bool

    @classmethod
    def of(cls, name: str, parser: Parser, default: bool) -> Model:
        """Describe a parser."""
        return cls(name=name, default=default, **_about(parser))


class ModelDetails(Model):
    """A model with its taxonomy and card."""

    taxonomy: dict[str, Any] = Field(description="Names and colors of the classes of each level, and the part groups.")
    card: dict[str, Any]

    @classmethod
    def of(cls, name: str, parser: Parser, default: bool) -> ModelDetails:
        """Describe a parser with all that is known."""
        card = parser.card.model_dump(mode="json")
        return cls(name=name, default=default, taxonomy=parser.model.taxonomy.to_dict(), card=card, **_about(parser))


class ParseAnswer(BaseModel):
    """A parse: what `Parse.to_dict` returns, with a key for each level."""

    model_config = ConfigDict(extra="allow")

    path: str | None = Field(description="Name of the file, if the client gave one.")
    model: str
    width: int
    height: int
    familiarity: float | None
    familiar: bool | None
    description: str
    levels: list[str]
    seconds: dict[str, float]
    maps: dict[str, dict[str, Any]]


class CocoAnswer(BaseModel):
    """The regions of one level, as `Parse.to_coco` returns them."""

    model_config = ConfigDict(extra="allow")

    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]


def _about(parser: Parser) -> dict[str, Any]:
    levels = [
        ModelLevel(name=name, dense=LEVEL_KINDS[name].dense, classes=len(level.names) - level.background)
        for name, level in parser.model.taxonomy.levels.items()
    ]
    card = parser.card
    return {
        "description": card.description,
        "levels": levels,
        "license": card.license,
        "research_only": card.research_only,
    }


PHOTO = {"type": "string", "format": "binary", "minLength": 1}
PARSE_BODY: dict[str, Any] = {
    "required": True,
    "description": "The photo: JPEG, PNG, WebP, TIFF, AVIF, BMP, GIF or PPM.",
    "content": {
        "multipart/form-data": {
            "schema": {"type": "object", "required": ["file"], "properties": {"file": PHOTO}},
        },
        **{kind: {"schema": PHOTO} for kind in ("image/jpeg", "image/png", "application/octet-stream")},
    },
}
PARSE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ParseAnswer | CocoAnswer,
        "description": "The parse, in the form that was asked for.",
        "content": {"image/png": {"schema": PHOTO}, "application/zip": {"schema": PHOTO}},
    }
}
_MEANINGS = {
    400: "The body is damaged.",
    401: "The token is missing or wrong.",
    403: "The page of another site has sent the request.",
    404: "There is no such model.",
    408: "The body arrived too slowly.",
    413: "The body or the photo is too large.",
    415: "The body has another content type.",
    422: "A parameter is wrong, or the photo cannot be read.",
    429: "Too many photos wait; Retry-After says when to try again.",
    503: "The photo was not parsed in time, or the server is shutting down.",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": meaning} for status, meaning in _MEANINGS.items()
}


def describe_token(document: dict[str, Any], open_paths: Collection[str]) -> None:
    """Say in an OpenAPI document that requests need a bearer token, except those for `open_paths`."""
    document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"token": []}]
    for path, operations in document["paths"].items():
        if path in open_paths:
            for operation in operations.values():
                operation["security"] = []
