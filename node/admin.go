package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/peerlink"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/placement"
)

const (
	maxManifest = 256 << 10
	maxRecords  = 64 // in one request
)

// adminHandler serves the administration API. Over the mesh every caller needs a key that the
// cluster knows; over the socket the file's permissions decide.
func (n *Node) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", reply(func(*http.Request) (any, error) { return n.status(), nil }))
	mux.HandleFunc("GET /v1/nodes", reply(func(*http.Request) (any, error) { return n.nodes(), nil }))
	mux.HandleFunc("GET /v1/functions", reply(func(*http.Request) (any, error) { return n.functions(), nil }))
	mux.HandleFunc("GET /v1/functions/{name}", n.serveFunction)
	mux.HandleFunc("GET /v1/regions", reply(func(*http.Request) (any, error) { return n.View().Desired.Regions.All(), nil }))
	mux.HandleFunc("GET /v1/rows", reply(func(*http.Request) (any, error) { return n.gossip.Rows(), nil }))
	mux.HandleFunc("GET /v1/functions/{name}/secrets", reply(func(r *http.Request) (any, error) { return n.secretStatus(r.PathValue("name")), nil }))
	mux.HandleFunc("GET /v1/tokens", reply(func(*http.Request) (any, error) { return n.tokens(), nil }))
	mux.HandleFunc("GET /v1/usage", reply(n.serveUsage))
	mux.HandleFunc("GET /v1/functions/{function}/logs", n.serveLogs)
	mux.HandleFunc("POST /v1/plan", reply(n.plan))
	mux.HandleFunc("GET /v1/explain/route", reply(n.serveExplain))
	mux.HandleFunc("POST /v1/what-if", reply(n.whatIf))
	mux.HandleFunc("POST /v1/records", reply(n.submit))
	mux.HandleFunc("POST /v1/deploy", n.serveDeploy)
	mux.HandleFunc("POST /v1/placement", reply(n.servePlacement))
	mux.HandleFunc("GET /v1/backup", n.serveBackup)
	mux.HandleFunc("POST /v1/drain", reply(n.serveDrain))
	mux.HandleFunc("POST /v1/upgrade", reply(n.serveUpgrade))
	n.certRoutes(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Not through the mux, which would clean the function's own path.
		if rest, ok := strings.CutPrefix(r.URL.EscapedPath(), invokePath); ok {
			n.serveInvoke(w, r, rest)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// meshAdmin is adminHandler for callers that come over the mesh port.
func (n *Node) meshAdmin() http.Handler {
	inner := n.adminHandler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pub, ok := peerlink.PersonFrom(r.Context())
		if !ok {
			fail(w, http.StatusUnauthorized, errors.New("this needs a key: run `perigee login TOKEN` first"))
			return
		}
		id := record.KeyIDOf(pub)
		if !n.knowsPerson(r.Context(), id) {
			fail(w, http.StatusForbidden, fmt.Errorf("the cluster does not know key %s, or it was revoked: ask an operator for a token and run `perigee login TOKEN`", id))
			return
		}
		inner.ServeHTTP(w, r)
	})
}

// knowsPerson waits a moment for a key that has just logged in at another node.
func (n *Node) knowsPerson(ctx context.Context, id perigee.KeyID) bool {
	return await(ctx, n.gossip, authorWait, func() bool {
		_, known := n.gossip.Person(id)
		return known
	})
}

// reply answers with the JSON of what f returns. The request's body, which f may read, must keep coming.
func reply(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		in := *r
		in.Body = io.NopCloser(newPaced(w, r, time.Now().Add(stallTime)))
		v, err := f(&in)
		if err != nil {
			fail(w, statusOf(err), err)
			return
		}
		writeJSON(w, http.StatusOK, v)
	}
}

// statusOf chooses the status of an error: the client's fault, its lack of rights, or the moment's.
func statusOf(err error) int {
	switch gossip.RuleOf(err) {
	case gossip.RuleShape, gossip.RuleManifest:
		return http.StatusBadRequest
	case gossip.RuleAuthor, gossip.RuleSignature, gossip.RuleRight, gossip.RuleScope, gossip.RuleRevoked:
		return http.StatusForbidden
	case gossip.RuleStorage:
		return http.StatusInsufficientStorage
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return http.StatusRequestEntityTooLarge
	}
	return http.StatusConflict
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

func fail(w http.ResponseWriter, status int, err error) {
	writeJSON(w, status, apiError{Error: err.Error()})
}

func (n *Node) plan(r *http.Request) (any, error) {
	var m perigee.Manifest
	if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxManifest)).Decode(&m); err != nil {
		return nil, fmt.Errorf("read the manifest: %w", err)
	}
	v := n.View()
	if err := checkManifest(&m, v.Desired.Regions); err != nil {
		return nil, err
	}
	fn := &perigee.Function{Name: m.Name, Live: &perigee.Revision{Manifest: m}}
	return placement.Foresee(v, fn), nil
}

func (n *Node) submit(r *http.Request) (any, error) {
	frames, err := readFrames(r.Body, maxRecords)
	if err != nil {
		return nil, err
	}
	if len(frames) == 0 {
		return nil, errors.New("no record in the request")
	}
	ack, err := n.gossip.Submit(context.WithoutCancel(r.Context()), frames...)
	if err != nil {
		return nil, err
	}
	return Ack{Stored: ack.Stored}, nil
}

func (n *Node) serveDeploy(w http.ResponseWriter, r *http.Request) {
	body := newPaced(w, r, time.Now().Add(deployTimeout))
	revision, err := readFrame(body)
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("read the revision: %w", err))
		return
	}
	pointer, err := readFrame(body)
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("read the pointer: %w", err))
		return
	}
	// The answer is sent while the bundle is read.
	conn := http.NewResponseController(w)
	_ = conn.EnableFullDuplex() // elsewhere than in HTTP/1 it is so anyway
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	send := func(e DeployEvent) {
		_ = enc.Encode(e) // a client that is gone ends the request's context
		_ = conn.Flush()
	}
	last, err := n.deployer.deploy(r.Context(), revision, pointer, body, send)
	if err != nil {
		last = DeployEvent{Error: err.Error()}
	}
	send(last)
	// net/http wants the rest of a body read before a handler that spoke meanwhile returns. A client
	// whose bundle was here already, or was refused, is still sending it.
	if r.ProtoMajor == 1 {
		_, _ = io.Copy(io.Discard, io.LimitReader(body, int64(maxArchive)))
	}
}

func (n *Node) serveDrain(r *http.Request) (any, error) {
	if err := n.operator(r, "drain"); err != nil {
		return nil, err
	}
	n.setDraining()
	return struct{}{}, nil
}
