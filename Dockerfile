# The command `pathology` for CPUs:
#   docker build -t pathology .
#   docker run --rm -v "$PWD/slides:/slides:ro" -v "$PWD/results:/results" pathology \
#     score /slides --model osteosarcoma-viability --out /results
# With every extra, and torch for NVIDIA GPUs:
#   docker build -t pathology --build-arg EXTRAS='[all]' .
FROM python:3.11-slim
ARG EXTRAS=""
WORKDIR /opt/pathology
# The front end of the viewer is built with the package and needs Node, which comes as a Python package.
COPY . .
RUN python -m pip install --no-cache-dir --constraint constraints.txt ".${EXTRAS}" \
    && useradd --create-home scorer
USER scorer
ENTRYPOINT ["pathology"]
CMD ["--help"]
