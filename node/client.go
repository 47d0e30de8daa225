package node

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

// Client asks a node's administration API. It is safe for concurrent use.
type Client struct {
	rt   http.RoundTripper
	name string // for error texts
}

// NewClient returns a client that sends its requests through rt; name says to whom, for error texts.
func NewClient(rt http.RoundTripper, name string) *Client { return &Client{rt: rt, name: name} }

// NewSocketClient returns a client of the node that serves the admin socket at path.
func NewSocketClient(path string) *Client {
	return NewClient(&http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dialSocket(ctx, path) },
		DisableKeepAlives: true, // a connection costs little, and a client has no end at which to close it
	}, path)
}

// ErrNotFound is returned for a function that does not exist.
var ErrNotFound = errors.New("no such function")

// Status returns the node's status.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.get(ctx, "/v1/status", &s)
}

// Nodes lists the members.
func (c *Client) Nodes(ctx context.Context) (s []NodeStatus, err error) {
	return s, c.get(ctx, "/v1/nodes", &s)
}

// Functions lists the functions.
func (c *Client) Functions(ctx context.Context) (s []FunctionStatus, err error) {
	return s, c.get(ctx, "/v1/functions", &s)
}

// Regions lists the catalogue.
func (c *Client) Regions(ctx context.Context) (s []perigee.RegionInfo, err error) {
	return s, c.get(ctx, "/v1/regions", &s)
}

// Rows returns what the nodes signed about themselves, for those who trust no node to repeat it.
func (c *Client) Rows(ctx context.Context) (rows [][]byte, err error) {
	return rows, c.get(ctx, "/v1/rows", &rows)
}

// Secrets lists the secrets of a function, which need not exist yet.
func (c *Client) Secrets(ctx context.Context, function string) (s []SecretStatus, err error) {
	return s, c.get(ctx, "/v1/functions/"+url.PathEscape(function)+"/secrets", &s)
}

// Tokens lists the tokens.
func (c *Client) Tokens(ctx context.Context) (s []TokenStatus, err error) {
	return s, c.get(ctx, "/v1/tokens", &s)
}

// Replaced is what a new pointer record of a function must name: as its parents, and as its past.
type Replaced struct {
	Heads, Past []perigee.Digest
}

// Function returns one function, and what a pointer that replaces it must name. For a name that is free the
// error is ErrNotFound, and the first deploy must name an earlier removal.
func (c *Client) Function(ctx context.Context, name string) (s *FunctionStatus, old Replaced, err error) {
	resp, err := c.do(ctx, http.MethodGet, "/v1/functions/"+url.PathEscape(name), nil)
	if err != nil {
		return nil, old, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		var e apiError
		if err := json.NewDecoder(resp.Body).Decode(&e); err != nil {
			return nil, old, fmt.Errorf("ask %s for function %s: %w", c.name, name, err)
		}
		return nil, Replaced{e.Heads, e.Past}, fmt.Errorf("%w: %s: `perigee ls` lists the ones there are", ErrNotFound, name)
	}
	s = new(FunctionStatus)
	if err := c.decode(resp, s); err != nil {
		return nil, old, err
	}
	return s, Replaced{s.Heads, s.Past}, nil
}

// Plan asks where a function with this manifest would run.
func (c *Client) Plan(ctx context.Context, m *perigee.Manifest) (p placement.Plan, err error) {
	b, err := json.Marshal(m)
	if err != nil {
		return p, err
	}
	return p, c.post(ctx, "/v1/plan", bytes.NewReader(b), &p)
}

// ExplainRoute asks what would happen to a request for a URL whose client is somewhere: a region, a city
// of one, an IP address or node:<id>; "" = in the region of the node asked. at is the node that it reaches; "" = the
// nearest one.
func (c *Client) ExplainRoute(ctx context.Context, address, from, at, prefer, force string) (e RouteExplanation, err error) {
	q := url.Values{"url": {address}, "from": {from}, "at": {at}, "prefer": {prefer}, "force": {force}}
	return e, c.get(ctx, "/v1/explain/route?"+q.Encode(), &e)
}

// WhatIf asks what would happen.
func (c *Client) WhatIf(ctx context.Context, ask WhatIf) (o placement.Outcome, err error) {
	b, err := json.Marshal(ask)
	if err != nil {
		return o, err
	}
	return o, c.post(ctx, "/v1/what-if", bytes.NewReader(b), &o)
}

// Submit hands signed records to the cluster.
func (c *Client) Submit(ctx context.Context, records ...[]byte) (a Ack, err error) {
	var body bytes.Buffer
	if err := writeFrames(&body, records...); err != nil {
		return a, err
	}
	return a, c.post(ctx, "/v1/records", &body, &a)
}

// maxLine bounds one line of a deploy's answer.
const maxLine = 1 << 20

// Deploy sends a revision, the pointer that makes it live, and its bundle. Each step is reported to
// progress, which may be nil; the last event is returned.
func (c *Client) Deploy(ctx context.Context, revision, pointer []byte, bundle io.Reader, progress func(DeployEvent)) (DeployEvent, error) {
	var head bytes.Buffer
	if err := writeFrames(&head, revision, pointer); err != nil {
		return DeployEvent{}, err
	}
	resp, err := c.do(ctx, http.MethodPost, "/v1/deploy", io.MultiReader(&head, bundle))
	if err != nil {
		return DeployEvent{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return DeployEvent{}, c.failure(resp)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var e DeployEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return e, fmt.Errorf("deploy through %s: read its answer: %w", c.name, err)
		}
		switch {
		case e.Error != "":
			return e, errors.New(e.Error)
		case e.Done:
			return e, nil
		case progress != nil:
			progress(e)
		}
	}
	err = lines.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return DeployEvent{}, fmt.Errorf("deploy through %s: the answer ended early: %w; run the deploy again: it continues where this one stopped", c.name, err)
}

// Place hands over the pointer record that changes a function's placement.
func (c *Client) Place(ctx context.Context, pointer []byte) (p Placed, err error) {
	return p, c.post(ctx, "/v1/placement", bytes.NewReader(pointer), &p)
}

// Invoke sends a request to a function through the node, without DNS or a public certificate. The
// path and query of r are those within the function's first route.
func (c *Client) Invoke(ctx context.Context, name string, r *http.Request) (*http.Response, error) {
	out := r.Clone(ctx)
	out.URL.Scheme, out.URL.Host, out.RequestURI = "http", "perigee", ""
	if err := setPath(out.URL, invokePath+url.PathEscape(name)+"/"+strings.TrimPrefix(r.URL.EscapedPath(), "/")); err != nil {
		return nil, fmt.Errorf("invoke %s: %w", name, err)
	}
	resp, err := c.rt.RoundTrip(out)
	if err != nil {
		return nil, fmt.Errorf("invoke %s through %s: %w", name, c.name, err)
	}
	return resp, nil
}

// Usage asks what functions used on all nodes; "" = all functions.
func (c *Client) Usage(ctx context.Context, function string) (u Usage, err error) {
	return u, c.get(ctx, "/v1/usage?"+url.Values{"function": {function}}.Encode(), &u)
}

// LogsQuery says which lines Logs is to give.
type LogsQuery struct {
	Since  time.Time      // zero = all that are kept
	Node   perigee.NodeID // "" = of all nodes
	Follow bool           // go on with what comes, until ctx ends
}

// Logs gives the lines of a function's guests to event, oldest first, and what is missing. It ends when
// event returns an error, which it returns.
func (c *Client) Logs(ctx context.Context, function string, q LogsQuery, event func(LogEvent) error) error {
	v := url.Values{}
	if !q.Since.IsZero() {
		v.Set("since", strconv.FormatInt(q.Since.UnixNano(), 10))
	}
	if q.Node != "" {
		v.Set("node", string(q.Node))
	}
	if q.Follow {
		v.Set("follow", "1")
	}
	resp, err := c.do(ctx, http.MethodGet, "/v1/functions/"+url.PathEscape(function)+"/logs?"+v.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return c.failure(resp)
	}
	whole := false
	in := bufio.NewScanner(resp.Body)
	in.Buffer(nil, maxLogEvent)
	for in.Scan() {
		if len(in.Bytes()) == 0 {
			continue // a sign of life
		}
		var e LogEvent
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			return fmt.Errorf("logs through %s: read its answer: %w", c.name, err)
		}
		whole = whole || e.CaughtUp
		if err := event(e); err != nil {
			return err
		}
	}
	if err := in.Err(); err != nil || q.Follow || !whole {
		return fmt.Errorf("logs through %s: the answer ended: %w", c.name, cmp.Or(ctx.Err(), err, io.ErrUnexpectedEOF))
	}
	return nil
}

// Backup returns a backup of the cluster as it comes. Only its own end says that it is whole: give it to
// ReadBackup.
func (c *Client) Backup(ctx context.Context) (io.ReadCloser, error) {
	resp, err := c.do(ctx, http.MethodGet, "/v1/backup", nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, c.failure(resp)
	}
	return resp.Body, nil
}

// Drain asks the node to stop taking traffic; it keeps running.
func (c *Client) Drain(ctx context.Context) error {
	return c.post(ctx, "/v1/drain", nil, nil)
}

// Upgrade has a program on the node's machine take over from it, and returns once that was started; ""
// stands for the node's own, as it is on the disk now.
func (c *Client) Upgrade(ctx context.Context, program string) error {
	return c.post(ctx, "/v1/upgrade?program="+url.QueryEscape(program), nil, nil)
}

// Certs lists the hosts and their web certificates.
func (c *Client) Certs(ctx context.Context) (s []CertStatus, err error) {
	return s, c.get(ctx, "/v1/certs", &s)
}

// RenewCert has the certificate of a host, or of "*." and a domain, ordered anew.
func (c *Client) RenewCert(ctx context.Context, name string) error {
	return c.post(ctx, "/v1/certs/renew?name="+url.QueryEscape(name), nil, nil)
}

// ImportCert shares a certificate from elsewhere.
func (c *Client) ImportCert(ctx context.Context, in CertImport) error {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return c.post(ctx, "/v1/certs/import", bytes.NewReader(b), nil)
}

func (c *Client) get(ctx context.Context, path string, out any) error {
	resp, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return c.decode(resp, out)
}

func (c *Client) post(ctx context.Context, path string, body io.Reader, out any) error {
	resp, err := c.do(ctx, http.MethodPost, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil && resp.StatusCode < 300 {
		return nil
	}
	return c.decode(resp, out)
}

func (c *Client) do(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://perigee"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.rt.RoundTrip(r)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", c.name, err)
	}
	return resp, nil
}

func (c *Client) decode(resp *http.Response, out any) error {
	if resp.StatusCode != http.StatusOK {
		return c.failure(resp)
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("ask %s: read its answer: %w", c.name, err)
	}
	return nil
}

func (c *Client) failure(resp *http.Response) error {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var e apiError
	if json.Unmarshal(b, &e) == nil && e.Error != "" {
		return errors.New(e.Error)
	}
	return fmt.Errorf("ask %s: %s: %s", c.name, resp.Status, strings.TrimSpace(string(b)))
}
