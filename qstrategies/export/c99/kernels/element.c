/* The place in dimension d that place k of the kernel reads for result p; -1 if it reads none. */
static int32_t source(const struct window *w, int32_t d, int32_t p, int32_t k)
{
    int32_t i = p * w->stride[d] - w->pad[d] + k * w->dilation[d];

    if (w->transposed) { /* the i with i * stride - pad + k * dilation = p */
        i = p + w->pad[d] - k * w->dilation[d];
        if (i < 0 || i % w->stride[d] != 0)
            return -1;
        i /= w->stride[d];
    }
    return i >= 0 && i < w->x_size[d] ? i : -1;
}

/* The element of the image that place k of the kernel reads for result p; -1 if it reads none. */
static int32_t element(const struct window *w, const int32_t p[3], const int32_t k[3])
{
    int32_t found = 0;

    for (int32_t d = 0; d < 3; d++) {
        const int32_t i = source(w, d, p[d], k[d]);

        if (i < 0)
            return -1;
        found = found * w->x_size[d] + i;
    }
    return found;
}
