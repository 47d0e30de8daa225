package node

import (
	"io"
	"net/http"
	"time"

	"github.com/perigee-edge/perigee"
)

// bundleHandler serves bundles to peers and takes those of deploys and moves, on the control connection.
// All but the GETs begin with the record frames of the revision and of the pointer that is to be in force:
//
//	GET  /bundles/{function}/{revision}/slices/{slice}  a sealed slice of the archive (package digest)
//	GET  /bundles/{function}/{revision}/slices          the slices that are here so far, and others as they
//	                                                    come: their numbers, of 4 bytes, big endian
//	POST /bundles/offer                   would this node take it? -> "send", or "have": its bytes are here
//	POST /bundles                         and the archive, unless it is here: store, admit, load
//	POST /bundles/fetch/{node}            fetch it from that node, admit
//
// Both sides apply the hard rules: a node outside a function's residency neither asks nor is served.
func (d *deployer) bundleHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /bundles/{function}/{revision}/slices/{slice}", d.serveSlice)
	mux.HandleFunc("GET /bundles/{function}/{revision}/slices", d.serveList)
	mux.HandleFunc("POST /bundles/offer", d.serveOffer)
	mux.HandleFunc("POST /bundles", d.serveTake)
	mux.HandleFunc("POST /bundles/fetch/{node}", d.serveFetch)
	return mux
}

// the answers to an offer
const (
	offerSend = "send"
	offerHave = "have"
)

const stallTime = 30 * time.Second // that a sender of a body may pause

// revisionOf finds a revision that is recorded, or one whose deploy is under way here, and the rules
// that hold for it.
func (d *deployer) revisionOf(function string, id perigee.RevisionID) (*perigee.Revision, *perigee.Policy) {
	if fn := d.rep.expected(id); fn != nil && fn.Name == function {
		return fn.Live, fn.Policy()
	}
	if rev, _, ok := d.gossip.RevisionByID(function, id); ok {
		return rev, policyOf(d.gossip.View(), rev)
	}
	return nil, nil
}

func (d *deployer) serveOffer(w http.ResponseWriter, r *http.Request) {
	fn, _, ok := d.arriving(w, r)
	if !ok {
		return
	}
	answer := offerSend
	if d.store.Has(fn.Live.Bundle) {
		answer = offerHave
	}
	io.WriteString(w, answer)
}

func (d *deployer) serveTake(w http.ResponseWriter, r *http.Request) {
	if fn, archive, ok := d.arriving(w, r); ok {
		done(w, d.take(r.Context(), fn, archive))
	}
}

func (d *deployer) serveFetch(w http.ResponseWriter, r *http.Request) {
	from := perigee.NodeID(r.PathValue("node"))
	if from == d.self || perigee.CheckLabel(string(from)) != nil {
		http.Error(w, "fetch from another node", http.StatusBadRequest)
		return
	}
	if fn, _, ok := d.arriving(w, r); ok {
		done(w, d.copyFrom(r.Context(), fn, from))
	}
}

// arriving reads the frames that a request begins with. It returns the rest of the body, or answers
// why this node does not take it.
func (d *deployer) arriving(w http.ResponseWriter, r *http.Request) (*perigee.Function, io.Reader, bool) {
	body := newPaced(w, r, time.Now().Add(deployTimeout))
	var records [2][]byte
	for i := range records {
		var err error
		if records[i], err = readFrame(body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return nil, nil, false
		}
	}
	fn, err := d.eligible(r.Context(), records[0], records[1])
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return nil, nil, false
	}
	return fn, body, true
}

func done(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// paced is the body of a request whose sender must keep sending: each Read waits for stallTime at
// most, and all of them until end.
type paced struct {
	body io.Reader
	conn *http.ResponseController
	end  time.Time
}

func newPaced(w http.ResponseWriter, r *http.Request, end time.Time) *paced {
	return &paced{r.Body, http.NewResponseController(w), end}
}

func (p *paced) Read(b []byte) (int, error) {
	deadline := time.Now().Add(stallTime)
	if deadline.After(p.end) {
		deadline = p.end
	}
	_ = p.conn.SetReadDeadline(deadline) // where it can't be set, the connection's own limits hold
	n, err := p.body.Read(b)
	_ = p.conn.SetReadDeadline(time.Time{}) // one that stays would end the request later
	return n, err
}
