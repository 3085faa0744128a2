/* The dimensions that are kept, and those that are summed over. */
struct mean {
    int32_t results, terms, zero_point;
    struct dimensions kept, summed;
    const int32_t *kept_step, *summed_step;
    int64_t divisor;
    struct rounding rounding;
};

static void mean(const uint8_t *x, uint8_t *y, const struct mean *m)
{
    for (int32_t r = 0; r < m->results; r++) {
        const uint8_t *const first = x + offset(&m->kept, m->kept_step, r);
        int32_t total = 0;

        for (int32_t t = 0; t < m->terms; t++)
            total += first[offset(&m->summed, m->summed_step, t)] - m->zero_point;
        y[r] = rounded_quotient(total, m->divisor, &m->rounding);
    }
}
