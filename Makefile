# Every check that CI runs is a target here; `make help` lists them.
.DEFAULT_GOAL := help

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
WASMTIME    := github.com/bytecodealliance/wasmtime-go/v39
WIZER       := @bytecodealliance/wizer@11.0.3
CADDY       := github.com/caddyserver/caddy/v2/cmd/caddy@v2.11.9
H2SPEC      := github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible
CACHETESTS  := http-cache-tests@0.4.5
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0

PORT     ?= 8443
FUZZTIME ?= 10s
PACKAGES ?= ./...
VULNDB   ?= https://vuln.go.dev

export CGO_ENABLED ?= 0

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: bin/perigee ## build bin/perigee

.PHONY: bin/perigee
bin/perigee:
	go build -trimpath -o $@ ./cmd/perigee

.PHONY: demo
demo: bin/perigee ## three nodes in one process: placement at work; ONCE=1 ends after the tables
ifdef ONCE
	bin/perigee dev --regions fra,wdc,syd --port 0 --tour --once examples/hello
else
	bin/perigee dev --regions fra,wdc,syd --port $(PORT) --tour examples/hello
endif

.PHONY: test
test: ## unit tests, clusters in one process, stories with real processes
	go test $(PACKAGES)
	cd guest && go test ./...
	for d in examples/*/go.mod; do (cd $$(dirname $$d) && go test ./...) || exit 1; done

.PHONY: lab
lab: bin/perigee ## stories of real clusters in namespaces, with distances, partitions, NAT (Linux, root); SHORT=1 for some of them
	PERIGEE_LAB=$(CURDIR)/bin/perigee go test -count=1 $(if $(SHORT),-short) ./internal/lab/...

.PHONY: race
race: ## the same under the race detector, without the stories (needs a C compiler)
	CGO_ENABLED=1 go test -race -short $(PACKAGES)

.PHONY: mutants
mutants: ## take away each defence that has a list of mutants: its test must fail
	PERIGEE_MUTANTS=1 go test -run '^TestMutants$$' -timeout 30m $$(git ls-files '*/testdata/mutants.txt' | sed 's,^,./,;s,/testdata/mutants.txt,,')

.PHONY: bombs
bombs: ## hostile modules of every kind and size, and all valid guests, given to one node's runtime (Linux)
	PERIGEE_BOMBS=1 go test -count=1 -run '^TestBombs$$' -v ./internal/wasmbin ./runtime

.PHONY: bin/pebble
bin/pebble: # an ACME server for tests
	mkdir -p bin/pebble
	cd bench/front && for p in pebble pebble-challtestsrv; do go build -o ../../bin/pebble/$$p github.com/letsencrypt/pebble/v2/cmd/$$p || exit 1; done
	certs=$$(cd bench/front && go list -m -f '{{.Dir}}' github.com/letsencrypt/pebble/v2)/test/certs && \
		install -m 600 $$certs/pebble.minica.pem bin/pebble/minica.pem && install -m 600 $$certs/localhost/*.pem bin/pebble/

.PHONY: test-acme
test-acme: bin/pebble ## certificates of a public CA, with Pebble and separate processes (needs curl)
	PERIGEE_PEBBLE=$(CURDIR)/bin/pebble go test -count=1 -timeout 20m -parallel 1 -run '^TestACME$$' ./cmd/perigee

.PHONY: test-clients
test-clients: bin/pebble ## HTTPS of three nodes with clients that others wrote: curl, Chromium, gtlsclient, bun; says which are missing
	@PERIGEE_PEBBLE=$(CURDIR)/bin/pebble go test -count=1 -v -run '^TestClients$$' ./cmd/perigee >bin/clients.log; status=$$?; \
		grep -E 'is not installed|FAIL|^ok' bin/clients.log; exit $$status

.PHONY: bin/front
bin/front: bin/perigee bin/pebble # what the figures of the front door need
	cd bench/front && go build -o ../../bin/front .
	GOBIN=$(CURDIR)/bin go install $(CADDY)
	GOBIN=$(CURDIR)/bin go install $(H2SPEC)

.PHONY: bench-front
bench-front: bin/front ## the front door beside Caddy and a bare server (needs wrk and h2load)
	cd bench/front && ../../bin/front ../../bin

.PHONY: bench-certs
bench-certs: bin/front ## certificates of a public CA on three nodes: time, storms, kills
	cd bench/front && ../../bin/front -acme ../../bin

.PHONY: bench-attack
bench-attack: bin/front ## what attacks on the front door cost a node and their sender (Linux)
	cd bench/front && ../../bin/front -attack ../../bin

.PHONY: bench-restart
bench-restart: bin/front ## requests that fail while every node of three is upgraded in turn, over HTTP/1, 2 and 3 (Linux)
	cd bench/front && ../../bin/front -restart ../../bin

.PHONY: bench-cache
bench-cache: bin/perigee ## the cache of a gateway: the tests of HTTP caches, and stored responses beside those of functions (needs node and npm)
	npm install --prefix bench --no-save --no-audit --no-fund $(CACHETESTS)
	go run ./internal/fleet/bench/cache

.PHONY: lint
lint: ## gofmt, vet, staticcheck
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "gofmt -w $$out"; exit 1; fi
	go vet ./...
	cd guest && go vet ./... && GOOS=wasip1 GOARCH=wasm go vet ./...
	for d in examples/*/go.mod; do (cd $$(dirname $$d) && GOOS=wasip1 GOARCH=wasm go vet ./...) || exit 1; done
	go run $(STATICCHECK) ./...

.PHONY: vuln
vuln: ## known vulnerabilities in what we use; VULNDB=file://… without a network
	go run $(GOVULNCHECK) -db $(VULNDB) ./...

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME each
	@for pkg in $$(go list ./...); do \
		for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$target"; \
			go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x $$pkg || exit 1; \
		done; \
	done

.PHONY: bench
bench: bin/perigee ## figures of a whole cluster, as "name value" lines; docs/bench.md explains them
	go run ./internal/fleet/bench

.PHONY: bench-cluster
bench-cluster: bin/perigee ## figures of clusters, simulated, real, and real in the lab (Linux, root): convergence, lost writes; docs/bench.md
	go run ./internal/sim/cluster/bench
	go run ./internal/survive/bench
	go run ./internal/poison
	go run ./internal/lab/bench -only converge,heal,bundle,join,hundred,detect
	PERIGEE_FIGURES=1 go test -count=1 -timeout 20m -run '^(TestFalseDeaths|TestDetect|TestManyMembers)$$' -v ./gossip | sed -n 's/^FIGURE //p'
	PERIGEE_FIGURES=1 go test -count=1 -timeout 20m -run '^TestIdleBytes$$' -v ./node | sed -n 's/^FIGURE //p'

.PHONY: bench-routing
bench-routing: bin/perigee ## requests between real nodes in the lab (Linux, root): cost over the round trip, a node that dies; a node with too much to do
	go run ./internal/lab/bench -only rtt,kill
	go run ./internal/fleet/bench -hop
	go run ./internal/sim/overload/bench
	PERIGEE_FIGURES=1 go test -count=1 -run '^TestOverload$$' -v ./runtime | sed -n 's/^FIGURE //p'

.PHONY: bench-mesh
bench-mesh: bin/perigee ## a hop and a long answer over TCP, where UDP is blocked, beside those over UDP: in a process, and in the lab (Linux, root)
	PERIGEE_FIGURES=1 go test -count=1 -run '^TestFigures$$' -v ./internal/peerlink | sed -n 's/^ *FIGURE //p'
	go run ./internal/lab/bench -only blocked

.PHONY: bench-placement
bench-placement: bin/perigee ## where code runs and which node serves: the choice, simulated worlds, and a region that is suddenly busy in the lab (Linux, root)
	go run ./internal/sim/placement/bench
	go run ./internal/sim/routing/bench
	go run ./internal/sim/residency/bench
	go run ./internal/lab/bench -only scaleout
	PERIGEE_FIGURES=1 go test -count=1 -run '^TestRealPrefixes$$' -v ./edgeproxy/dns | sed -n 's/^ *FIGURE //p'

.PHONY: bench-runtime
bench-runtime: ## the runtime beside other engines and a bare server (needs a C compiler, npm and wrk; Linux)
	npm install --prefix bench --no-save --no-audit --no-fund $(WIZER)
	cd bench && go mod download $(WASMTIME) && lib=$$(go list -m -f '{{.Dir}}' $(WASMTIME))/build && CGO_ENABLED=1 CGO_CFLAGS="-O2 -I$$lib/include" \
		CGO_LDFLAGS="-L$$lib/linux-$$(uname -m) -lwasmtime -lm -ldl -pthread" go build -o ../bin/bench . && ../bin/bench $(BENCH)

.PHONY: cross
cross: ## build for every system we support
	GOOS=linux GOARCH=amd64 go build -o /dev/null ./cmd/perigee
	GOOS=linux GOARCH=arm64 go build -o /dev/null ./cmd/perigee
	GOOS=darwin GOARCH=arm64 go build -o /dev/null ./cmd/perigee

.PHONY: clean
clean: ## remove what builds made
	rm -rf bin examples/*/*.wasm
