"""The gateway as a Serve deployment: the ingress of the application."""

from deployments.core.collector import relax
from deployments.core.config import Settings
from deployments.core.follow import Hub
from deployments.core.gate import Gate
from deployments.core.keys import Keys
from deployments.core.outbox import Outbox
from deployments.core.refusals import Refusals
from deployments.core.run import Answers
from deployments.core.service import begin
from deployments.core.store import open_store
from deployments.core.tokens import Tokens
from deployments.core.usage import Books
from deployments.core.valkey import connect
from deployments.gateway.app import build_app
from deployments.gateway.client import ServeBoard
from deployments.gateway.context import App, Context, Stages
from deployments.gateway.frames import bound


class Gateway:
    """Builds the HTTP application over a flow and the near sides of the other stages."""

    def __init__(self, settings: Settings, stages: Stages, flow: Answers):
        begin("gateway", settings)
        relax()
        bound()
        store = open_store(settings)
        keys = Keys(store, settings.pepper_bytes(), settings.gateway.key_cache_s, settings.gateway.session_ttl_s)
        valkey = connect(settings.valkey)
        hub = Hub(valkey, settings.log)
        outbox = Outbox(connect(settings.valkey), settings.log, local=hub)
        gate = Gate(connect(settings.valkey), settings, keys.policy, Books(store))
        tokens = Tokens(store, keys, settings.pepper_bytes(), valkey, settings.issuer)
        self._app = build_app(Context(settings, store, keys, hub, outbox, flow, stages, gate, tokens, Refusals(store), board=ServeBoard()))

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve hears every second, and the policy decides by."""
        parts = self._app.context
        return {"streams": parts.hub.followed, "sockets": len(parts.sockets)}

    def __serve_build_asgi_app__(self) -> App:
        """What Serve calls for the application once this object stands."""
        return self._app
