package gossip

import (
	goruntime "runtime"
	"sync"
)

// parallel runs f for 0 to n-1 on all processors, and inline when there is little to do.
func parallel(n int, f func(i int)) {
	workers := min(goruntime.GOMAXPROCS(0), n/8)
	if workers < 2 {
		for i := range n {
			f(i)
		}
		return
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				f(i)
			}
		})
	}
	wg.Wait()
}
