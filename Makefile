# Each target is one line into the tool. LAB picks an inventory: make up LAB=two-nodes
LAB ?= bookinfo
testbed = .venv/bin/testbed

.PHONY: up test down lint bench soak setup

up: setup
	$(testbed) up -i $(LAB)

test:
	@scripts/setup test
	scripts/test

down:
	$(testbed) down -i $(LAB)

lint: setup
	scripts/test lint

bench: setup
	.venv/bin/python benchmarks/up.py

SEED ?= 1
soak: setup
	$(testbed) up -i $(LAB) --no-verify
	status=0; \
	$(testbed) verify -i $(LAB) --chaos --seed $(SEED) --for 60m || status=$$?; \
	.venv/bin/python benchmarks/soak.py $(LAB) --runs 20 || status=$$?; \
	.venv/bin/python benchmarks/soak.py two-nodes || status=$$?; \
	exit $$status

setup:
	@scripts/setup
