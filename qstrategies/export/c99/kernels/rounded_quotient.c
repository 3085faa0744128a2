/* The integer of total * multiplier / divisor: to nearest, ties to even; lifted as in rounding. */
static uint8_t rounded_quotient(int32_t total, int64_t divisor, const struct rounding *to)
{
    const uint64_t whole = (uint64_t)divisor;
    const uint64_t scaled = (uint64_t)((int64_t)total * to->multiplier[0]);
    const uint64_t lifted = scaled + (uint64_t)to->lift * whole;
    const uint64_t rest = lifted % whole;
    uint64_t steps = lifted / whole;

    if (2 * rest > whole || (2 * rest == whole && steps % 2 == 1))
        steps++;
    return saturated((int64_t)steps - to->lift + to->zero_point, to);
}
