"""Metrics, named as OpenFaaS's gateway names them."""

from prometheus_client import Counter, Gauge, Histogram

INVOCATIONS = Counter("gateway_function_invocation_total", "Calls answered.", labelnames=("function_name", "code"))
SECONDS = Histogram("gateway_functions_seconds", "Seconds until a call's answer began.", labelnames=("function_name",))
REPLICAS = Gauge("gateway_service_count", "Replicas that are ready.", labelnames=("function_name",))
