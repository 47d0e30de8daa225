package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee"
)

func newCache(t *target) *cobra.Command {
	return group("cache", "Responses that gateways have stored", newCachePurge(t))
}

func newCachePurge(t *target) *cobra.Command {
	var m perigee.PurgeMatch
	c := &cobra.Command{
		Use: "purge", Short: "Have all gateways drop stored responses", Args: cobra.NoArgs,
		Long: "Purge has every gateway drop the responses for which all that is named fits: of a function, for a host,\n" +
			"with a word that the response named in Cache-Tag. The purge is a signed record: a gateway that is away\n" +
			"obeys it when it is back, before it uses what it has stored. Of each function the last 256 stay known; a\n" +
			"gateway that may have missed some drops all that it has of the function.\n\n" +
			"A deploy key whose scope names functions must name one of them.",
		Example: "  perigee cache purge --tag product-7\n  perigee cache purge --function shop --host shop.example.com",
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch m.Host = strings.TrimSuffix(strings.ToLower(m.Host), "."); {
			case m == perigee.PurgeMatch{}:
				return usagef("name what to drop: --tag, --host or --function")
			case strings.Contains(m.Tag, ","):
				return usagef("--tag %q: a tag has no commas; purge one at a time", m.Tag)
			}
			p, done, err := t.signer(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			if m.Function != "" {
				if _, _, err := p.Function(cmd.Context(), m.Function); err != nil {
					return err
				}
			}
			ack, err := p.Purge(cmd.Context(), m)
			if err != nil {
				return err
			}
			return t.say(cmd, ack, "purged; recorded on %s, other gateways drop it within seconds\n", joined(ack.Stored))
		},
	}
	c.Flags().StringVar(&m.Tag, "tag", "", "with this `WORD` in their Cache-Tag")
	c.Flags().StringVar(&m.Host, "host", "", "for this `HOST`")
	c.Flags().StringVar(&m.Function, "function", "", "of this `FUNCTION`")
	return c
}
