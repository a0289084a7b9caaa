"""Flow control of a connection whose reading can be held."""

from uvicorn.protocols.http.flow_control import FlowControl


class HeldFlow(FlowControl):
    """Flow control of a connection whose reading can be held; only `release` resumes it."""

    is_held = False

    def hold(self) -> None:
        """Stop reading until `release`."""
        self.is_held = True
        self.pause_reading()

    def release(self) -> None:
        """Resume reading."""
        self.is_held = False
        self.resume_reading()

    def pause_reading(self) -> None:
        """Stop reading; a closing transport does not read anyway."""
        if not self._transport.is_closing():
            super().pause_reading()

    def resume_reading(self) -> None:
        """Read again unless reading is held."""
        if not self.is_held and not self._transport.is_closing():
            super().resume_reading()
