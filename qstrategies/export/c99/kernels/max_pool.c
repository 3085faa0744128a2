struct max_pool {
    struct window window;
    int32_t planes;
};

/* The largest of what the kernel reads of a plane for result p; a window reads something. */
static uint8_t largest(const struct window *w, const uint8_t *plane, const int32_t p[3])
{
    uint8_t most = 0;
    int32_t k[3];

    for (k[0] = 0; k[0] < w->kernel[0]; k[0]++)
        for (k[1] = 0; k[1] < w->kernel[1]; k[1]++)
            for (k[2] = 0; k[2] < w->kernel[2]; k[2]++) {
                const int32_t at = element(w, p, k);
                const uint8_t value = at < 0 ? 0 : plane[at];

                most = value > most ? value : most;
            }
    return most;
}

static void max_pool(const uint8_t *x, uint8_t *y, const struct max_pool *m)
{
    const int32_t elements = volume(m->window.x_size), results = volume(m->window.y_size);

    for (int32_t n = 0; n < m->planes; n++)
        for (int32_t r = 0; r < results; r++) {
            int32_t p[3];

            locate(&m->window, r, p);
            y[n * results + r] = largest(&m->window, x + n * elements, p);
        }
}
