package android.system;

/** android.system is part of Android's core library, whose API is published apart; written after its documentation, API 34. */
public final class Os {
    private Os() { }

    public static void setenv(String name, String value, boolean overwrite) throws ErrnoException { }
}
