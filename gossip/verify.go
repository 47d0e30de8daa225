package gossip

// Verify checks records as Submit would, and stores nothing. It is safe for concurrent use.
func (g *Gossip) Verify(records ...[]byte) error {
	_, err := g.check(records)
	return err
}
