package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/perigee-edge/perigee/internal/handover"
	"github.com/perigee-edge/perigee/internal/peerlink"
)

const (
	checkTime     = 10 * time.Second // for a program to say that it would start
	preparedTime  = 10 * time.Second // for it to read its settings
	successorTime = 60 * time.Second // for it to be warm for all that it is to serve
	returnPause   = time.Second      // between attempts to bring the old program back
	maxComplaint  = 2 << 10          // of a program's last words
)

// The names of the sockets that are handed on.
const (
	socketMesh   = "listen"
	socketTCP    = "listen tcp"
	socketHTTP3  = "http3"
	socketHTTPS  = "https"
	socketHTTP   = "http"
	socketHealth = "admin_http"
)

// upgradeState is what people are told of upgrades.
type upgradeState struct {
	mu     sync.Mutex // guards all below
	failed string     // why the last one failed
	after  bool       // the process before this one has not ended yet
}

func (u *upgradeState) failure() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.failed
}

func (u *upgradeState) set(failed string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.failed = failed
}

func (u *upgradeState) setAfter(after bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.after = after
}

func (u *upgradeState) begin() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.after {
		return errors.New("upgrade: the process before this one still ends its last requests: try again in a moment")
	}
	u.failed = ""
	return nil
}

// serveUpgrade is for the socket only: who names a program that runs here has this machine.
func (n *Node) serveUpgrade(r *http.Request) (any, error) {
	if _, far := peerlink.PersonFrom(r.Context()); far {
		return nil, errors.New("upgrade: a node is upgraded on its own machine: run this there")
	}
	return struct{}{}, n.Upgrade(r.Context(), r.URL.Query().Get("program"))
}

// Upgrade has a program take this node over without a moment in which nobody answers, and returns when
// that begins: Status says how it ends. "" stands for the node's own program, as it is on the disk now.
func (n *Node) Upgrade(ctx context.Context, program string) error {
	if len(n.cfg.Command) == 0 {
		return errors.New("upgrade: this node was not started by `perigee node run`")
	}
	if program == "" {
		program = n.cfg.Command[0]
	}
	if !filepath.IsAbs(program) {
		return fmt.Errorf("upgrade: %s: give the whole path of the program", program)
	}
	if err := n.upgrade.begin(); err != nil {
		return err
	}
	if err := n.checkProgram(ctx, program); err != nil {
		return err
	}
	select {
	case n.upgrades <- program:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("upgrade: another upgrade is under way, or the node stops: %w", context.Cause(ctx))
	case <-time.After(checkTime):
		return errors.New("upgrade: another upgrade is under way, or the node stops")
	}
}

// checkProgram asks a program whether it would start with this node's settings and data.
func (n *Node) checkProgram(ctx context.Context, program string) error {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, append(n.cfg.Command[1:len(n.cfg.Command):len(n.cfg.Command)], "--check")...)
	cmd.Args[0] = os.Args[0]
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if says := bytes.TrimSpace(out[:min(len(out), maxComplaint)]); len(says) > 0 {
		err = fmt.Errorf("%w: %s", err, says)
	}
	return fmt.Errorf("upgrade: %s would not start, so nothing was changed: %w", program, err)
}

// unlessFrozen keeps requests of peers and people from what another process has now.
func (n *Node) unlessFrozen(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.frozen.Load() {
			fail(w, http.StatusServiceUnavailable, errors.New("the node restarts: try again"))
			return
		}
		h.ServeHTTP(w, r)
	})
}

// passOn has a program take over. It reports whether this process is to end: its successor serves, or
// ctx ended. If not, all is as before.
//
// Only one process may have the data directory. So this one stops everything but what serves requests,
// which goes on with the View of that moment, until the successor is ready. One that fails then is
// followed by this process's own program, again and again.
func (n *Node) passOn(ctx context.Context, program string, inner []part) (over bool) {
	n.log.Info("upgrading", "program", program)
	s, siblings, err := n.startSuccessor(ctx, program, "")
	if err != nil {
		n.log.Warn("upgrade failed, this process goes on", "err", err)
		n.upgrade.set(err.Error())
		return false
	}
	n.freeze(inner)
	trouble := ""
	for {
		if err = n.install(ctx, s); err == nil {
			break
		}
		s.Kill()
		n.closeSiblings(siblings)
		n.log.Error("the new process failed; requests are still served", "pid", s.PID(), "err", err)
		if ctx.Err() != nil {
			return n.endAlone(ctx)
		}
		if trouble == "" {
			trouble = fmt.Sprintf("%s did not take over: %v", program, err)
		} else {
			pause(ctx, returnPause)
		}
		for s, siblings, err = n.startSuccessor(ctx, ownProgram(n.cfg.Command[0]), trouble); err != nil; s, siblings, err = n.startSuccessor(ctx, ownProgram(n.cfg.Command[0]), trouble) {
			n.log.Error("the old program does not start again; requests are still served", "err", err)
			if pause(ctx, returnPause); ctx.Err() != nil {
				return n.endAlone(ctx)
			}
		}
	}
	for _, c := range []net.PacketConn{n.cfg.Socket, n.cfg.OnHTTP3} {
		if c == nil {
			continue
		}
		if err := handover.Steer(c, handover.Steering{Mark: n.mark, MarkedFirst: true}); err != nil {
			n.log.Error("steer packets to the new process", "err", err)
		}
	}
	closeAll(siblings)
	n.link.Moved()
	if err := handover.Notify(fmt.Sprintf("MAINPID=%d", s.PID())); err != nil {
		n.log.Warn("tell the service manager of the new process", "err", err)
	}
	n.log.Info("the new process serves", "pid", s.PID())
	return true
}

// ownProgram is what this process runs, even if its file was replaced meanwhile.
func ownProgram(path string) string {
	const self = "/proc/self/exe"
	if _, err := os.Stat(self); err == nil {
		return self
	}
	return path
}

// startSuccessor starts a program, with copies of the sockets, and waits until it has read its settings.
func (n *Node) startSuccessor(ctx context.Context, program, trouble string) (_ *handover.Successor, siblings []net.PacketConn, err error) {
	offer := handover.Offer{Mark: n.mark, Own: handover.NewMark(), Trouble: trouble}
	sockets := map[string]any{}
	defer func() {
		if err != nil {
			n.closeSiblings(siblings)
		}
	}()
	for _, l := range n.handedOn() {
		if l.on != nil {
			sockets[l.name] = l.on
		}
	}
	for name, c := range map[string]net.PacketConn{n.named(socketMesh, n.cfg.Listen): n.cfg.Socket, n.named(socketHTTP3, n.cfg.HTTPS): n.cfg.OnHTTP3} {
		if c == nil {
			continue
		}
		sibling, err := handover.Sibling(c, handover.Steering{Mark: offer.Own})
		if err != nil {
			return nil, siblings, err
		}
		siblings, sockets[name] = append(siblings, sibling), sibling
	}
	s, err := handover.Start(program, n.cfg.Command[1:], offer, sockets)
	if err != nil {
		return nil, siblings, err
	}
	defer context.AfterFunc(ctx, s.Kill)()
	if err = s.AwaitPrepared(preparedTime); err != nil {
		s.Kill()
	}
	return s, siblings, err
}

// closeSiblings ends the sharing of ports with a successor that failed.
func (n *Node) closeSiblings(siblings []net.PacketConn) {
	closeAll(siblings)
	for _, c := range []net.PacketConn{n.cfg.Socket, n.cfg.OnHTTP3} {
		if c != nil {
			_ = handover.Alone(c) // at worst another node can share the port
		}
	}
}

func closeAll(conns []net.PacketConn) {
	for _, c := range conns {
		c.Close()
	}
}

// freeze stops everything but what serves requests, and lets go of the directory.
func (n *Node) freeze(inner []part) {
	n.frozen.Store(true)
	for _, p := range inner {
		p.stop()
		<-p.done
	}
	n.trials.rest()
	n.usage.Settle()
	n.unlock()
}

// install lets a successor open the directory, and waits until it is ready.
func (n *Node) install(ctx context.Context, s *handover.Successor) error {
	defer context.AfterFunc(ctx, s.Kill)()
	if err := s.Go(); err != nil {
		return err
	}
	return s.AwaitReady(successorTime)
}

// endAlone ends a frozen process that has no successor.
func (n *Node) endAlone(ctx context.Context) bool {
	n.log.Warn("stopped amid an upgrade", "err", context.Cause(ctx))
	return true
}

// finish ends what this process still serves when another has taken over.
func (n *Node) finish(ctx context.Context, health []part) {
	for _, p := range health {
		p.stop()
		<-p.done
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.cfg.DrainTimeout)
	defer cancel()
	if err := n.proxy.Drain(ctx); err != nil {
		n.log.Warn("requests were cut off at the end of the drain", "err", err)
	}
	n.log.Info("drained", "dur", time.Since(began))
}

// handedOnSocket is a listener of TCP under the name of its setting and that one's value: a successor
// with another value opens its own.
type handedOnSocket struct {
	name string
	on   net.Listener
	take *net.Listener
}

func (n *Node) named(key, addr string) string { return key + " " + addr }

func (n *Node) handedOn() []handedOnSocket {
	return []handedOnSocket{
		{n.named(socketTCP, n.cfg.Listen), n.meshTCP, &n.meshTCP},
		{n.named(socketHTTPS, n.cfg.HTTPS), n.cfg.OnHTTPS, &n.cfg.OnHTTPS},
		{n.named(socketHTTP, n.cfg.HTTP), n.cfg.OnHTTP, &n.cfg.OnHTTP},
		{n.named(socketHealth, n.cfg.Admin), n.health, &n.health},
	}
}

// inherit takes the sockets of the process before this one.
func (n *Node) inherit() {
	p := n.cfg.Predecessor
	if p == nil {
		return
	}
	n.mark = p.Own
	n.upgrade.failed, n.upgrade.after = p.Trouble, true
	for _, l := range n.handedOn() {
		if on := p.Listener(l.name); on != nil {
			*l.take = on
		}
	}
	if c := p.PacketConn(n.named(socketMesh, n.cfg.Listen)); c != nil {
		n.cfg.Socket = c
	}
	if n.cfg.DisableHTTP3 {
		return
	}
	if c := p.PacketConn(n.named(socketHTTP3, n.cfg.HTTPS)); c != nil {
		n.cfg.OnHTTP3 = c
	}
}

// awaitTurn waits, where another process still serves, until this one is ready to.
func (n *Node) awaitTurn(ctx, failed context.Context) {
	if n.cfg.Predecessor == nil {
		return
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for why := ""; ; {
		err := n.ready()
		if err == nil {
			return
		}
		if s := err.Error(); s != why {
			why = s
			n.log.Debug("not ready to take over", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		case <-failed.Done():
			return
		}
	}
}

// tellPredecessor has the process before this one end, and notes when it has.
func (n *Node) tellPredecessor(start func(string, func(context.Context) error) part) []part {
	p := n.cfg.Predecessor
	if p == nil || n.ready() != nil {
		return nil
	}
	return []part{start("predecessor", func(ctx context.Context) error {
		if err := p.Ready(); err != nil {
			n.log.Warn("the process before this one does not hear", "err", err)
		}
		p.AwaitEnd(ctx)
		n.upgrade.setAfter(false)
		for _, c := range []net.PacketConn{n.cfg.Socket, n.cfg.OnHTTP3} {
			if c == nil || ctx.Err() != nil {
				continue
			}
			if err := handover.Alone(c); err != nil {
				n.log.Warn("keep the port for this process alone", "addr", c.LocalAddr().String(), "err", err)
			}
		}
		return nil
	})}
}

// Command returns the argv by which this process started, with the path of its program.
func Command() []string {
	path, err := os.Executable()
	if err != nil {
		return nil
	}
	return append([]string{strings.TrimSuffix(path, " (deleted)")}, os.Args[1:]...)
}
