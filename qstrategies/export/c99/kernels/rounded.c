/* The integer of a total: to nearest, ties to even. Lifted, the number is positive, so that a shift
   to the right divides it; since lift is even, what was odd stays odd. */
static uint8_t rounded(int32_t total, int32_t channel, const struct rounding *to)
{
    const int32_t place = channel * to->per_channel;
    const uint8_t shift = to->shift[place];
    const uint64_t scaled = (uint64_t)((int64_t)total * to->multiplier[place]);
    const uint64_t lifted = scaled + ((uint64_t)to->lift << shift);
    const uint64_t odd = (lifted >> shift) & 1;
    const uint64_t below_half = ((uint64_t)1 << (shift - 1)) - 1;
    const uint64_t steps = (lifted + below_half + odd) >> shift;

    return saturated((int64_t)steps - to->lift + to->zero_point, to);
}
