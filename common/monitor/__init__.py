"""What saturated, stuck, bang-bang and coherent mean, and these measurements for anybody's actor–critic."""
