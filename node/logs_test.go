package node_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy"
	"github.com/perigee-edge/perigee/internal/fleet"
	. "github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/node"
)

// talker is a guest that logs a text and answers with it.
func talker(text string) []byte {
	var m Module
	log := m.Import("http_handler", "log", "iii:")
	write := m.Import("http_handler", "write_body", "iii:")
	m.Memory(1, 1)
	m.Data(0, text)
	m.Export("handle_request", 0, m.Func(":I", 0,
		Const(0), Const(0), Const(len(text)), Call(log),
		Const(1), Const(0), Const(len(text)), Call(write), Const64(0)))
	m.Export("handle_response", 0, m.Func("ii:", 0))
	return m.Bytes()
}

// askIn sends a request to a function through a member, to run in a region, and returns its id.
func askIn(t *testing.T, f *fleet.Fleet, m *fleet.Member, function string, region perigee.Region) (id string) {
	t.Helper()
	client := f.Client(m)
	defer client.CloseIdleConnections()
	eventually(t, 20*time.Second, fmt.Sprintf("it runs in %s", region), func() error {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+function+".localhost/", nil)
		if err != nil {
			return err
		}
		r.Header.Set("Perigee-Prefer-Region", string(region))
		resp, err := client.Do(r)
		if err != nil {
			return err
		}
		resp.Body.Close()
		receipt, _ := edgeproxy.ReceiptOf(resp.Header)
		if receipt.Region != region {
			return fmt.Errorf("%s, %+v", resp.Status, receipt)
		}
		id = receipt.ID
		return nil
	})
	return id
}

// TestLogsFollow follows a function's lines on two nodes, of which one dies and comes back.
func TestLogsFollow(t *testing.T) {
	t.Parallel()
	f := cluster(t, "fra", "wdc")
	deploy(t, f, pack(t, "talks", talker("hi"), perigee.Policy{Pin: []string{"fra", "wdc"}}))
	fra, wdc := f.Members()[0], f.Members()[1]
	first := askIn(t, f, fra, "talks", "wdc")
	eventually(t, 20*time.Second, "the line is kept, which may be after the answer", func() error {
		kept := false
		err := fra.Client().Logs(t.Context(), "talks", node.LogsQuery{}, func(e node.LogEvent) error {
			kept = kept || e.Line != nil && e.Line.Request == first
			return nil
		})
		if err == nil && !kept {
			err = errors.New("not there")
		}
		return err
	})

	ctx, cancel := context.WithCancel(t.Context())
	events, ended := make(chan node.LogEvent, 100), make(chan error, 1)
	go func() {
		ended <- fra.Client().Logs(ctx, "talks", node.LogsQuery{Follow: true}, func(e node.LogEvent) error {
			events <- e
			return nil
		})
	}()
	next := func(what string, pass func(e node.LogEvent) bool) {
		t.Helper()
		limit := time.After(30 * time.Second)
		for {
			select {
			case e := <-events:
				if pass(e) {
					return
				}
			case err := <-ended:
				t.Fatalf("%s: it ended: %v", what, err)
			case <-limit:
				t.Fatalf("%s: not within 30 s", what)
			}
		}
	}
	lineOf := func(m *fleet.Member, id string) func(node.LogEvent) bool {
		return func(e node.LogEvent) bool {
			return e.Line != nil && e.Line.Request == id && e.Line.Node == m.ID() && e.Line.Region == m.Region() && e.Line.Text == "hi" && e.Line.Level == "INFO"
		}
	}
	next("the line that was kept", lineOf(wdc, first))
	next("all were kept", func(e node.LogEvent) bool { return e.CaughtUp })
	next("a line here", lineOf(fra, askIn(t, f, fra, "talks", "fra")))
	next("a line there", lineOf(wdc, askIn(t, f, fra, "talks", "wdc")))
	if err := wdc.Kill(); err != nil {
		t.Fatal(err)
	}
	next("the node that died is named", func(e node.LogEvent) bool { return e.Error != "" && e.Node == wdc.ID() })
	next("a line of the other", lineOf(fra, askIn(t, f, fra, "talks", "fra")))
	if err := f.Restart(t.Context(), wdc); err != nil {
		t.Fatal(err)
	}
	next("a line of the node that is back", lineOf(wdc, askIn(t, f, fra, "talks", "wdc")))
	cancel()
	if err := <-ended; err == nil || ctx.Err() == nil {
		t.Errorf("it ended with %v", err)
	}
}

// TestUsageOfTheCluster checks sums over nodes, and that a node which does not answer is named.
func TestUsageOfTheCluster(t *testing.T) {
	t.Parallel()
	f := cluster(t, "fra", "wdc")
	deploy(t, f, pack(t, "talks", talker("hello"), perigee.Policy{Pin: []string{"fra", "wdc"}}))
	fra, wdc := f.Members()[0], f.Members()[1]
	for range 3 {
		askIn(t, f, fra, "talks", "fra")
		askIn(t, f, fra, "talks", "wdc")
		askIn(t, f, wdc, "talks", "wdc")
	}
	u, err := wdc.Client().Usage(t.Context(), "talks")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]uint64{}
	for _, r := range u.Rows {
		seen[fmt.Sprintf("%s in %s from %s", r.Function, r.Region, r.Caller)] = r.Requests
		if r.BytesOut != 5*r.Requests || r.Fuel == 0 || r.Wall == 0 || r.PeakPages != 1 || r.Fresh+r.Image+r.Reset != r.Requests {
			t.Errorf("row %+v", r)
		}
	}
	if seen["talks in fra from fra"] < 3 || seen["talks in wdc from fra"] < 3 || seen["talks in wdc from wdc"] < 3 || len(u.Nodes) != 2 {
		t.Errorf("%v from %+v", seen, u.Nodes)
	}
	if other, err := fra.Client().Usage(t.Context(), "nothing"); err != nil || len(other.Rows) != 0 {
		t.Errorf("another function: %+v, %v", other.Rows, err)
	}
	if err := wdc.Kill(); err != nil {
		t.Fatal(err)
	}
	less, err := fra.Client().Usage(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if len(less.Nodes) != 2 || less.Nodes[0].Missing != "" || less.Nodes[1].Missing == "" || less.Total.Requests >= u.Total.Requests {
		t.Errorf("without %s: %+v, %d requests", wdc.ID(), less.Nodes, less.Total.Requests)
	}
	if err := f.Restart(t.Context(), wdc); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "what it counted is there again", func() error {
		again, err := fra.Client().Usage(t.Context(), "talks")
		if err == nil && again.Total != u.Total {
			err = fmt.Errorf("%+v, want %+v; %+v", again.Total, u.Total, again.Nodes)
		}
		return err
	})
	_, err = fra.Client().Usage(t.Context(), strings.Repeat("x", 100))
	if err != nil {
		t.Errorf("a long name: %v", err)
	}
}
