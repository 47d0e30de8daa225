package strict

import "strings"

// Near returns the one of the known words that the given one was probably meant to be: the same
// but for case or '-' and '_', or at most a third of its letters away. "" means none is near.
func Near(word string, known []string) string {
	const longest = 64 // no word of ours is longer, and the distance is quadratic
	if len(word) > longest {
		return ""
	}
	best, bestDistance := "", max(1, len(word)/3)+1
	for _, k := range known {
		if len(k) > longest {
			continue
		}
		if fold(k) == fold(word) {
			return k
		}
		if d := distance(word, k); d < bestDistance && d < len(k) {
			best, bestDistance = k, d
		}
	}
	return best
}

func fold(s string) string { return strings.ToLower(strings.ReplaceAll(s, "-", "_")) }

// distance counts the letters to insert, delete, replace or swap with their neighbour to get from
// a to b (optimal string alignment).
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := last[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			row[j] = min(last[j]+1, row[j-1]+1, change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
