package android.provider;

import android.net.Uri;

/** Part of Android's media module, whose API is published apart; written after its documentation, API 34. */
public final class MediaStore {
    public static final String ACTION_IMAGE_CAPTURE = "android.media.action.IMAGE_CAPTURE";
    public static final String EXTRA_OUTPUT = "output";

    private MediaStore() { }

    public static final class Images {
        private Images() { }

        public static final class Media {
            public static final Uri EXTERNAL_CONTENT_URI = null;

            private Media() { }
        }
    }
}
