# docker build -t metarl . && docker run --rm metarl agents
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD":/work metarl \
#     train point-goal maml-trpo --iterations 30 --out runs/point
#
# Much smaller, without CUDA:
# docker build -t metarl . \
#     --build-arg PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"
FROM python:3.13-slim

# What draws videos without a display.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libegl1 libopengl0 libgl1-mesa-dri \
    && rm -rf /var/lib/apt/lists/*

# More words for pip. The index of other packages must stay: `--extra-index-url`, not `--index-url`.
ARG PIP_FLAGS=""
RUN pip install --no-cache-dir torch==2.13.0 $PIP_FLAGS

COPY . /metarl
RUN pip install --no-cache-dir -c /metarl/constraints.txt /metarl $PIP_FLAGS

# Whoever runs it has a place for caches, a user without a name, too.
ENV HOME=/tmp
WORKDIR /work
ENTRYPOINT ["metarl"]
CMD ["--help"]
