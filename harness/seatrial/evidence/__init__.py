"""What the guest's text means. Pure: text in, records out; the text comes from a hostile guest."""
