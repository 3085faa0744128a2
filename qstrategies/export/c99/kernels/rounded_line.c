/* So many results are computed side by side, for processors that can. */
enum { LINE = 16 };

/* The integers of a line of totals of one channel, with its bias. */
static void rounded_line(const int32_t total[LINE], int32_t bias, int32_t channel,
                         const struct rounding *to, uint8_t y[LINE])
{
    const int32_t multiplier = to->multiplier[channel * to->per_channel];
    const uint8_t shift = to->shift[channel * to->per_channel];
    const struct rounding by = {&multiplier,    &shift,  0,       to->lift,
                                to->zero_point, to->low, to->high};

    for (int32_t i = 0; i < LINE; i++)
        y[i] = rounded(bias + total[i], 0, &by);
}
