/* A kernel that slides over an image of three dimensions; what has fewer has sizes of 1. */
struct window {
    int32_t x_size[3], y_size[3], kernel[3], stride[3], pad[3], dilation[3];
    int32_t transposed;
};

static int32_t volume(const int32_t size[3])
{
    return size[0] * size[1] * size[2];
}

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

/* The indices p of result number `number`. */
static void locate(const struct window *w, int32_t number, int32_t p[3])
{
    p[2] = number % w->y_size[2];
    p[1] = number / w->y_size[2] % w->y_size[1];
    p[0] = number / w->y_size[2] / w->y_size[1];
}
