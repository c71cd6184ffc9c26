# Everything a person types. `make` alone lists the targets.
VENV   := .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SUDO   := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: help install run demo test test-web lint bench simulate fuzz chaos clean
help:
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 20

# The stamp makes a second `make run` start at once: the install is redone only when its inputs change.
$(STAMP): setup.cfg pyproject.toml requirements.lock
	@echo 'Installing what Heliograph needs into $(VENV); once, and again when that changes. It may take a minute or two.'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[dev]'
	@touch $@

install: $(STAMP)  ## make the environment in .venv

run: $(STAMP)  ## start one node on http://127.0.0.1:8000, data in ./heliograph-data
	@$(BIN)/heliograph node run --data heliograph-data --http 127.0.0.1:8000

demo: $(STAMP)  ## a throw-away node with twelve people and their pictures
	@$(BIN)/heliograph demo

lint: $(STAMP)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/mypy storage cluster node cli

test: lint  ## lint, types and every test
	$(BIN)/python -m pytest

test-web: $(STAMP)  ## the web app in Debian's Chromium; PHOTOS=dir for photographs of your own
	@command -v chromium > /dev/null || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -y -q --no-install-recommends \
		chromium fonts-noto-core; }
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[web]'
	HELIOGRAPH_BROWSER=$$(command -v chromium) HELIOGRAPH_PHOTOS=$(PHOTOS) $(BIN)/python -m pytest tests/browser

bench: $(STAMP)  ## the speed table, against Redis, PostgreSQL and nginx where they are installed
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[bench]' \
		|| echo 'without psycopg: what is compared with PostgreSQL is left out'
	$(BIN)/python -m bench $(BENCH)

simulate: $(STAMP)  ## 5,000 histories of a cluster in virtual time; SEEDS=… and FROM=… for others
	$(BIN)/heliograph simulate --seed $(or $(FROM),0) --seeds $(or $(SEEDS),5000) --jobs $(or $(JOBS),2)

fuzz: $(STAMP)  ## images, the HTTP surface, and links between nodes
	$(BIN)/pip install --quiet --constraint requirements.lock --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz

chaos: $(STAMP)  ## five nodes as processes, killed, frozen and cut under load; MINUTES=30
	$(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),30) $(CHAOS)

clean:  ## remove the environment, not the data
	rm -rf $(VENV) build *.egg-info
