/* The integer of a total: to nearest, ties to even. An offset of lift steps makes it positive, so
   that a shift to the right divides it, and since lift is even, what was odd stays odd. Half a step
   more rounds up; less by one, it rounds a tie up only if it comes from an odd step. */
static uint8_t rounded(int32_t total, int32_t channel, const struct rounding *to)
{
    const int32_t place = channel * to->per_channel;
    const uint8_t shift = to->shift[place];
    const uint64_t scaled = (uint64_t)((int64_t)total * to->multiplier[place]);
    const uint64_t odd = (scaled >> shift) & 1;
    const uint64_t offset = ((uint64_t)(2 * to->lift + 1) << (shift - 1)) - 1;
    const uint64_t steps = (scaled + offset + odd) >> shift;

    return saturated((int64_t)steps - to->lift + to->zero_point, to);
}
