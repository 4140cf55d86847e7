# docker build -t metarl . && docker run --rm metarl agents
# docker run --rm -v "$PWD":/work metarl train point-goal maml-trpo --iterations 30 --out runs/point
FROM python:3.13-slim

# What draws videos without a display.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libegl1 libgl1-mesa-dri \
    && rm -rf /var/lib/apt/lists/*

# More words for pip, such as an index with builds of torch for CPUs alone, which are much smaller.
ARG PIP_FLAGS=""
RUN pip install --no-cache-dir torch==2.13.0 $PIP_FLAGS

COPY . /metarl
RUN pip install --no-cache-dir -c /metarl/constraints.txt /metarl $PIP_FLAGS

WORKDIR /work
ENTRYPOINT ["metarl"]
CMD ["--help"]
