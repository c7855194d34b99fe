"""What the paths of one server share, and how images become predictions there."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import HTTPException

from headstart.inference.judge import FilePrediction
from headstart.server.line import BusyError, Line, Source
from headstart.server.meters import Meters
from headstart.server.models import Models, Served
from headstart.server.settings import Limits
from headstart.wording import counted

BUSY = "Too many images are waiting. Try again in a second."


@dataclass
class State:
    """What is true of the whole server at the moment.

    Attributes:
        draining: It was told to stop, and answers what still comes.
        held: Bytes of the bodies of all requests that are being read or answered.
    """

    draining: bool = False
    held: int = 0


@dataclass(frozen=True)
class Service:
    """What the paths of one server share."""

    models: Models
    line: Line
    meters: Meters
    limits: Limits
    state: State

    def model(self, name: str | None) -> Served:
        """Return a model by name; the default one for None.

        Raises:
            HTTPException: There is none of that name.
        """
        found = self.models.find(name)
        if found is None:
            names = ", ".join(served.name for served in self.models)
            raise HTTPException(404, f"There is no model '{(name or '')[:64]}'. Models: {names}.")
        return found

    async def predict(
        self, model: Served, sources: Sequence[Source], *, evidence: bool = False
    ) -> list[FilePrediction | str]:
        """Return a prediction for every image, or a reason why there is none.

        Raises:
            HTTPException: There is no room in the line, or the time is over.
        """
        if len(sources) > min(self.limits.files, self.limits.queue):
            most = min(self.limits.files, self.limits.queue)
            raise HTTPException(413, f"A request may have {counted(most, 'image')}. Send the others in another one.")
        try:
            deadline = time.monotonic() + self.limits.seconds
            found = await self.line.predict(model, sources, deadline=deadline, evidence=evidence)
        except BusyError:
            raise HTTPException(503, BUSY, {"Retry-After": "1"}) from None
        except TimeoutError:
            raise HTTPException(504, f"Not computed within {self.limits.seconds:g} s. Try again later.") from None
        for prediction in found:
            self.meters.prediction(model, prediction)
        return found
