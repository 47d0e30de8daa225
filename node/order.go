package node

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy/acme"
)

// order is what is known of a name that this node is responsible for.
type order struct {
	Running bool      `json:"running,omitempty"`
	Error   string    `json:"error,omitempty"` // of the last try
	Next    time.Time `json:"next,omitzero"`   // no try before this

	fails   int
	made    []time.Time // orders of the last day
	forced  bool
	version uint64    // of the certificate that renew is of
	renew   time.Time // when that one is to be replaced
	asked   time.Time // when the CA is to be asked again
}

// dueLocked returns how long an order is to wait, 0 if it is to begin now. It then counts as running.
func (s *issuer) dueLocked(o *order, e *perigee.WebEntry, now time.Time) time.Duration {
	switch {
	case o.Running:
		return issuerEvery
	case now.Before(o.Next) && !o.forced:
		return o.Next.Sub(now)
	case e != nil && !o.forced && o.version == e.Version && now.Before(o.renew) && now.Before(o.asked):
		return min(o.renew.Sub(now), o.asked.Sub(now))
	}
	if o.made = lastDay(o.made, now); len(o.made) >= orderDaily {
		o.Error = fmt.Sprintf("%d orders in a day: waiting", len(o.made))
		o.Next, o.forced = o.made[0].Add(orderSpan), false
		return o.Next.Sub(now)
	}
	o.Running = true
	return 0
}

// try does what is due, and notes how it went.
func (s *issuer) try(ctx context.Context, name string, o *order, f func(context.Context, *order) error) {
	ctx, cancel := context.WithTimeout(ctx, orderTime)
	defer cancel()
	err := f(ctx, o)
	s.mu.Lock()
	o.Running = false
	switch {
	case err == nil:
		o.Error, o.fails, o.Next = "", 0, time.Time{}
	case errors.Is(err, errBusy):
		o.Next = time.Now().Add(busyWait)
	case ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded):
		o.fails++
		o.Error, o.Next = err.Error(), time.Now().Add(min(lastBackoff, firstBackoff<<min(o.fails-1, 10)))
		s.log.Warn("the public CA gave nothing; the cluster's own goes on", "host", name, "err", err, "dur", time.Until(o.Next).Round(time.Second))
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// errBusy: another issuer orders this, or there is no account yet.
var errBusy = errors.New("another issuer is at it")

// orderIfDue asks whether a certificate is to be replaced, and orders one if so, or if there is none.
func (s *issuer) orderIfDue(ctx context.Context, name string, o *order, e *perigee.WebEntry) error {
	var c acme.Certificate
	var old *x509.Certificate
	if e != nil {
		if ok, err := s.m.unseal(e, &c); ok && err == nil {
			if cert, err := c.Parse(name); err == nil {
				old = cert.Leaf
			}
		}
		if old == nil && time.Now().Before(e.Expires) {
			return fmt.Errorf("the certificate that %s shares is not sealed to this node", e.By)
		}
	}
	s.mu.Lock()
	forced := o.forced || e != nil && leaked(s.gossip.View(), e)
	s.mu.Unlock()
	if old != nil && !forced {
		renew, again := s.client.Load().RenewAt(ctx, old)
		renew = later(renew, settled(e.Created, old))
		s.mu.Lock()
		o.version, o.renew, o.asked = e.Version, renew, again
		s.mu.Unlock()
		if time.Now().Before(renew) {
			return nil
		}
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.orderedElsewhere(ctx, name, s.directory()) || s.responsible(s.gossip.View(), name) != s.self() {
		return errBusy
	}
	if now := s.gossip.View().Desired.Web[perigee.WebName{Item: perigee.WebCertificate, Name: name}]; now != nil && (e == nil || now.Version != e.Version) {
		return nil // another issuer was faster
	}
	account, shared, err := s.account()
	if err != nil {
		return err
	}
	s.mu.Lock()
	if change := s.orders[s.directory()]; change != nil && change.Running {
		s.mu.Unlock()
		return errBusy // the CA may know the account by another key any moment
	}
	s.mu.Unlock()
	if err := s.count(ctx, name, o); err != nil {
		return err
	}
	began, replaces := time.Now(), old
	if c.From != s.directory() {
		replaces = nil
	}
	cert, err := s.client.Load().Order(ctx, account, name, replaces)
	if err != nil {
		now := s.gossip.View().Desired.Web[s.accountName()]
		if now != nil && now.Version != shared.Version || account.Next != nil && acme.Refused(err) {
			return fmt.Errorf("%w: the account gets another key: %w", errBusy, err)
		}
		return err
	}
	parsed, err := cert.Parse(name)
	if err != nil {
		return err
	}
	if err := s.share(ctx, perigee.WebName{Item: perigee.WebCertificate, Name: name}, parsed.Leaf.NotAfter, cert); err != nil {
		return err
	}
	s.log.Info("certificate from the public CA", "host", name, "dur", time.Since(began))
	return nil
}

// orderTimes is when a certificate was ordered in the last day, so that a limit on that holds whoever orders.
type orderTimes struct {
	Made []time.Time `json:"made"`
}

// count notes an order before it is made, unless there were too many in a day: then it is due when dueLocked says so.
func (s *issuer) count(ctx context.Context, name string, o *order) error {
	item := perigee.WebName{Item: perigee.WebOrders, Name: name}
	var shared orderTimes
	if e := s.gossip.View().Desired.Web[item]; e != nil {
		if _, err := s.m.unseal(e, &shared); err != nil {
			return fmt.Errorf("read when %s was ordered: %w", name, err)
		}
	}
	now := time.Now()
	s.mu.Lock()
	o.made = lastDay(append(o.made, shared.Made...), now) // the View may not have what this node noted last
	if len(o.made) >= orderDaily {
		s.mu.Unlock()
		return errBusy
	}
	o.made, o.forced = append(o.made, now), false
	made := slices.Clone(o.made)
	s.mu.Unlock()
	return s.share(ctx, item, now.Add(orderSpan), &orderTimes{made})
}

// lastDay returns the times of the last day, each once, in order.
func lastDay(made []time.Time, now time.Time) []time.Time {
	made = slices.DeleteFunc(made, func(at time.Time) bool { return now.Sub(at) > orderSpan })
	slices.SortFunc(made, time.Time.Compare)
	return slices.CompactFunc(made, time.Time.Equal)
}

// settled returns until when a certificate that was shared a moment ago is left alone, whatever the CA and this node's
// clock say: a wrong clock sees the end of each new one as near as that of the one before.
func settled(shared time.Time, leaf *x509.Certificate) time.Time {
	return shared.Add(min(leaf.NotAfter.Sub(leaf.NotBefore)/6, 24*time.Hour))
}

// orderedElsewhere asks the other issuers whether they are at one of these.
func (s *issuer) orderedElsewhere(ctx context.Context, names ...string) bool {
	for _, o := range s.ask(ctx, "/web/orders") {
		var all map[string]order
		if json.Unmarshal(o, &all) == nil && slices.ContainsFunc(names, func(name string) bool { return all[name].Running }) {
			return true
		}
	}
	return false
}
