# Ray, the project and what it needs: the image of cluster.yaml and of docs/cluster/. From this folder:
#
#   docker build --tag registry.example.org/seqvis:2.60.0 .
#
# Without CUDA, for heads, gateways and laptops; INDEX is the address of PyTorch's package index of CPU builds:
#
#   docker build --build-arg BASE=rayproject/ray:2.60.0-py311 --build-arg TORCH_INDEX=INDEX \
#       --tag registry.example.org/seqvis:2.60.0-cpu .
ARG BASE=rayproject/ray:2.60.0-py311-gpu
FROM ${BASE}
RUN sudo apt-get update -qq && sudo apt-get install -y -qq g++ && sudo rm -rf /var/lib/apt/lists/*
# The packages are a layer of their own, which nodes need not fetch again when only the project has changed.
ARG TORCH_INDEX=
COPY --chown=ray:users install.sh build_nmslib.py build.lock requirements.lock /home/ray/seqvis/
RUN PIP_NO_CACHE_DIR=1 sh /home/ray/seqvis/install.sh python
COPY --chown=ray:users . /home/ray/seqvis/
RUN sh /home/ray/seqvis/install.sh python
WORKDIR /home/ray/seqvis
# serve/environment.py
ENV RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve.proxy:middlewares \
    RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD=0 \
    RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP=0 \
    RAY_SERVE_USE_GRPC_BY_DEFAULT=1 \
    RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH=67108864 \
    RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE=100 \
    RAY_SERVE_LOG_TO_STDERR=0 \
    RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S=1 \
    RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S=3 \
    RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS=1 \
    RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S=0.5 \
    RAY_worker_niceness=0 \
    RAY_JOB_STOP_WAIT_TIME_S=60 \
    MALLOC_ARENA_MAX=1 \
    RAY_SERVE_ENABLE_HA_PROXY=1 \
    RAY_SERVE_HAPROXY_BINARY_PATH=/home/ray/anaconda3/bin/seqvis-haproxy \
    RAY_SERVE_HAPROXY_RETRY_ON="conn-failure empty-response junk-response" \
    RAY_SERVE_HAPROXY_RETRIES=6 \
    RAY_SERVE_HAPROXY_TUNE_BUFSIZE=131072 \
    RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER=200ms \
    RAY_SERVE_HAPROXY_HEALTH_CHECK_FASTINTER=50ms \
    RAY_SERVE_HAPROXY_OBSERVE_MARK_DOWN_ENABLED=0 \
    RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S=2
