"""What the server's answers look like, for its OpenAPI description."""

from pydantic import BaseModel, Field


class Error(BaseModel):
    """What is wrong, and what to do."""

    error: str


class EvidenceOut(BaseModel):
    """Where in an image the evidence for its most probable class lies."""

    grid: list[list[float]] = Field(description="Rows of values from 0 to 1, the largest; 0 where nothing supports it.")
    box: tuple[float, float, float, float] = Field(
        description="Part of the upright image that the grid covers: top, left, height and width, in shares of the "
        "image's height and width. It reaches beyond the image where that was padded."
    )


class FilePredictionOut(BaseModel):
    """Prediction for one file, or the reason why there is none."""

    file: str = Field(description="Name of the file; image where one was sent by itself.")
    label: str | None = Field(default=None, description="Most probable class.")
    probability: float | None = Field(default=None, description="Calibrated probability of that class.")
    top: list[tuple[str, float]] | None = Field(default=None, description="Most probable classes, best first.")
    unsure: bool | None = Field(default=None, description="Whether the probability is too low to be relied on.")
    novelty: float | None = Field(default=None, description="How unlike the training images the image is.")
    unfamiliar: bool | None = Field(default=None, description="Whether it is too unlike them.")
    evidence: EvidenceOut | None = Field(default=None, description="There where it was asked for.")
    error: str | None = Field(default=None, description="Why there is no prediction.")


class PredictionsOut(BaseModel):
    """Predictions for all files of a request, in their order."""

    model: str = Field(description="SHA-256 of the model's weights.")
    predictions: list[FilePredictionOut]


class ModelOut(BaseModel):
    """A model that the server answers with."""

    name: str
    sha256: str = Field(description="SHA-256 of the model's weights.")
    architecture: str
    classes: list[str]
    size: int = Field(description="Height and width of the network's input, in pixels.")
    sure_from: float | None = Field(description="Probability from which a prediction is sure; null without one.")
    unsure: str | None = Field(description="What makes a prediction unsure, in words; null where none ever is.")
    novelty: bool = Field(description="Whether images unlike the training images are marked.")
    evidence: bool = Field(description="Whether it can tell where in an image the evidence lies.")


class ModelsOut(BaseModel):
    """All models, the default one first."""

    models: list[ModelOut]


class Health(BaseModel):
    """State of the server."""

    status: str
