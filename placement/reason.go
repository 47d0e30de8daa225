package placement

// Reason names why a node serves a request (Candidate), or why it holds a function or does not
// (Verdict). Receipts carry it, so the names are part of the contract with users; each is
// explained in docs/placement.md.
type Reason string

// The reasons of Route, as receipts show them.
const (
	ReasonLocalWarm     Reason = "local-warm"
	ReasonNearestWarm   Reason = "nearest-warm"
	ReasonLessLoaded    Reason = "less-loaded"
	ReasonPreferred     Reason = "preferred-region"
	ReasonClientPrefers Reason = "client-preferred"
	ReasonClientForces  Reason = "client-forced"
	ReasonOnlyAllowed   Reason = "only-allowed"
	ReasonColdNearest   Reason = "cold-nearest"
	ReasonColdFetch     Reason = "cold-fetch"
	ReasonColdSooner    Reason = "cold-sooner"
	ReasonThrough       Reason = "shortest-in-all"
	ReasonNext          Reason = "next-candidate"
	ReasonHedge         Reason = "hedge"
	ReasonLastResort    Reason = "last-resort"
)

// The reasons of PlanFunction for a holder.
const (
	ReasonPinned   Reason = "pinned"
	ReasonKeptWarm Reason = "kept-warm"
	ReasonWanted   Reason = "preferred-place"
	ReasonSpread   Reason = "spread"

	ReasonForCallers Reason = "for-callers"
	ReasonSurvives   Reason = "survives"
	ReasonNear       Reason = "near-target"
	ReasonForDemand  Reason = "for-demand"
)

// The reasons of PlanFunction for a node that is no holder.
const (
	ReasonNotAllowed Reason = "not-allowed"
	ReasonDown       Reason = "down"
	ReasonDraining   Reason = "draining"
	ReasonDiskFull   Reason = "disk-full"
	ReasonRevoked    Reason = "revoked"
	ReasonOverMax    Reason = "over-max"
	ReasonNotNeeded  Reason = "not-needed"
)

// ReasonNoCopy is why an allowed node is no candidate for a request.
const ReasonNoCopy Reason = "no-copy"

// Text says the reason in a few words, for tables and explanations. It is empty for a word that is
// no reason.
func (r Reason) Text() string {
	switch r {
	case ReasonLocalWarm:
		return "the node that took the request is warm and allowed"
	case ReasonNearestWarm:
		return "the nearest warm node that is allowed and answers, or one as near"
	case ReasonLessLoaded:
		return "a nearer warm node is busier, and the answer comes sooner from here"
	case ReasonPreferred:
		return "in the first place of prefer that has capacity"
	case ReasonClientPrefers:
		return "in the place the client preferred"
	case ReasonClientForces:
		return "in the place the client forced"
	case ReasonOnlyAllowed:
		return "the only node in service that the hard rules allow"
	case ReasonColdNearest:
		return "no warm node: the nearest that has the bundle on disk starts it"
	case ReasonColdFetch:
		return "no other allowed node has the bundle: this one fetches and starts it"
	case ReasonColdSooner:
		return "starting it here takes less than the way to a warm node"
	case ReasonThrough:
		return "its way and the way from there to what near names are the shortest together"
	case ReasonNext:
		return "the nodes before it refused or did not answer"
	case ReasonHedge:
		return "the node before it took longer than 19 of 20 requests do, and this one answered first"
	case ReasonLastResort:
		return "it failed lately, and so did all others that have the bundle"
	case ReasonPinned:
		return "a pinned place needs a holder"
	case ReasonKeptWarm:
		return "warm asks for it"
	case ReasonWanted:
		return "first in the order of prefer"
	case ReasonSpread:
		return "chosen by spread and hashing"
	case ReasonForCallers:
		return "requests of some callers may run only there"
	case ReasonSurvives:
		return "the loss of one such place must leave a holder"
	case ReasonNear:
		return "nearest to what the function should be near to"
	case ReasonForDemand:
		return "those who call it wait less"
	case ReasonNoCopy:
		return "it has no copy of the bundle"
	case ReasonNotAllowed:
		return "a hard rule excludes it"
	case ReasonDown:
		return "left or dead"
	case ReasonDraining:
		return "takes no new work"
	case ReasonDiskFull:
		return "its disk is full, and it does not have the bundle"
	case ReasonRevoked:
		return "its certificate is revoked"
	case ReasonOverMax:
		return "max is reached"
	case ReasonNotNeeded:
		return "enough holders elsewhere"
	}
	return ""
}
