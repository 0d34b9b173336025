"""The whole application on one screen: every stage, and who calls whom."""

from ray.serve import Application

from deployments.core.config import Settings
from deployments.core.corpus import REBUILD
from deployments.core.jobs import EXPIRE, INGEST, REMEMBER, RESPOND
from deployments.embedder.client import EmbedderClient
from deployments.embedder.service import Embedder
from deployments.gateway.context import Stages
from deployments.gateway.service import Gateway
from deployments.generator.client import GeneratorClient
from deployments.generator.service import Generator
from deployments.retriever.client import RetrieverClient
from deployments.retriever.service import Retriever
from deployments.router.client import RouterClient
from deployments.router.service import Router
from deployments.worker.client import WorkerClient
from deployments.worker.service import Worker
from pipeline.cache import Cached
from pipeline.citations import cite
from pipeline.compared import Compared
from pipeline.expire import Expire
from pipeline.flow import Flow
from pipeline.jobs import Ingest
from pipeline.rebuild import Rebuild
from pipeline.remember import Remember
from pipeline.respond import Respond
from pipeline.scaling import handle, ingress, stage
from pipeline.standalone import stand
from pipeline.tools.loop import Loop


def build(settings: Settings) -> Application:
    """The application for some settings; `serve run pipeline.app:build` calls it, and so does a Serve config file."""
    settings = stand(settings)
    drain_s = settings.gateway.drain_s
    embeds = EmbedderClient(handle(Embedder, "embedder", settings.embedder.scaling, drain_s, settings))
    retrieves = RetrieverClient(handle(Retriever, "retriever", settings.retriever.scaling, drain_s, settings))
    routes = RouterClient(handle(Router, "router", settings.router.scaling, drain_s, settings))
    generates = GeneratorClient(handle(Generator, "generator", settings.generator.stage, drain_s, settings, cite))
    loop = Loop(settings.tools, stall_s=settings.log.stall_s)
    flow = Cached(settings, Compared(settings, Flow(settings, embeds, retrieves, routes, generates, loop=loop)), embeds)
    jobs = {
        INGEST: Ingest(settings, embeds, retrieves),
        EXPIRE: Expire(settings, retrieves),
        REBUILD: Rebuild(settings, retrieves),
        RESPOND: Respond(settings, flow),
        REMEMBER: Remember(settings, embeds, generates),
    }
    works = WorkerClient(handle(Worker, "worker", settings.worker.scaling, drain_s, settings, jobs))

    stages = Stages(embeds, retrieves, works, all=(embeds, retrieves, routes, generates, works))
    return stage(ingress(Gateway), "gateway", settings.gateway.scaling, drain_s).bind(settings, stages, flow)
