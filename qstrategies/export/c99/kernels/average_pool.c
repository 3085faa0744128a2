struct average_pool {
    struct window window;
    int32_t planes, zero_point;
    int64_t divisor;
    struct rounding rounding;
};

/* The sum of what the kernel reads of a plane for result p; what lies outside adds 0. */
static int32_t window_sum(const struct average_pool *a, const uint8_t *plane, const int32_t p[3])
{
    const struct window *w = &a->window;
    int32_t k[3], total = 0;

    for (k[0] = 0; k[0] < w->kernel[0]; k[0]++)
        for (k[1] = 0; k[1] < w->kernel[1]; k[1]++)
            for (k[2] = 0; k[2] < w->kernel[2]; k[2]++) {
                const int32_t at = element(w, p, k);

                total += at < 0 ? 0 : plane[at] - a->zero_point;
            }
    return total;
}

static void average_pool(const uint8_t *x, uint8_t *y, const struct average_pool *a)
{
    const int32_t elements = volume(a->window.x_size), results = volume(a->window.y_size);

    for (int32_t n = 0; n < a->planes; n++)
        for (int32_t r = 0; r < results; r++) {
            int32_t p[3], total;

            locate(&a->window, r, p);
            total = window_sum(a, x + n * elements, p);
            y[n * results + r] = rounded_quotient(total, a->divisor, &a->rounding);
        }
}
