/* A kernel that slides over an image of three dimensions; what has fewer has sizes of 1. */
struct window {
    int32_t x_size[3], y_size[3], kernel[3], stride[3], pad[3], dilation[3];
    int32_t transposed;
};

static int32_t volume(const int32_t size[3])
{
    return size[0] * size[1] * size[2];
}

/* The indices p of result number `number`. */
static void locate(const struct window *w, int32_t number, int32_t p[3])
{
    p[2] = number % w->y_size[2];
    p[1] = number / w->y_size[2] % w->y_size[1];
    p[0] = number / w->y_size[2] / w->y_size[1];
}
